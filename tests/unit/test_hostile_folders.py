"""A runs folder from a stranger is data: nothing in it is executed, waited for, read without end, or led out of."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from records_oracle import ideal

from hpcpar import records
from hpcpar.records import Step
from hpcpar.runs import RunFolder

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = (
    ["status", "{runs}", "--json"],
    ["collect", "{runs}", "--offline", "--format", "json"],
    ["logs", "{run}"],
    ["doctor", "--cluster", "slurm-test", "--runs", "{runs}", "--json"],
)
_MEMORY = 1536 * 1024**2
_FILES = ("spec.json", "record.json", "submission.jsonl", "events.{a}.jsonl", "steps.{a}.jsonl", "logs")


def _limited():
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _run(arguments, runs, run, env):
    words = [word.format(runs=runs, run=run) for word in arguments]
    return subprocess.run(
        [sys.executable, "-m", "hpcpar", *words],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=_limited,
        env={**env, "PYTHONPATH": str(REPOSITORY), "OPENBLAS_NUM_THREADS": "1"},
        cwd=runs.parent,
    )


def _to_device(path):
    path.symlink_to("/dev/zero")


def _to_secret(path):
    secret = path.parents[3] / "secret"
    secret.write_text('{"schema": 1, "key": "S3CRET"}\n')
    path.symlink_to(secret)


def _to_itself(path):
    path.symlink_to(path.name)


def _huge(path):
    with path.open("wb") as file:
        file.write(b'{"time": 1.0, "kind": "start"}\n')
        file.truncate(20 * 1024**3)  # a hole: it takes no room


def _deep(path):
    path.write_text("[" * 200_000)


def _folder(path):
    path.mkdir()


def _pickle(path):
    path.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")


@pytest.mark.full
@pytest.mark.parametrize("make", [_to_device, _to_secret, _to_itself, _huge, _deep, _folder, _pickle])
@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: words[0])
def test_no_file_of_a_strangers_run_harms_who_looks_at_it(isolation, make, arguments):
    runs = isolation / "runs"
    folders = ideal(nodes=(1, 2), repeats=1).write(runs)
    for folder, name in zip(folders * len(_FILES), _FILES, strict=False):
        attempt = (folder.attempts() or ["0"])[0]
        path = folder.path / name.format(a=attempt)
        if path.is_dir():
            path.rename(path.with_name("moved"))
        path.unlink(missing_ok=True)
        make(path)
    done = _run(arguments, runs, folders[0].path, os.environ)
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert "S3CRET" not in done.stdout + done.stderr
    assert not list(isolation.rglob("hacked"))


def test_a_device_in_the_place_of_a_file_reads_as_nothing(tmp_path):
    for name in ("record.json", "spec.json", "steps.1.0.jsonl"):
        (tmp_path / name).symlink_to("/dev/zero")
    folder = RunFolder(tmp_path)
    assert (folder.record(), folder.spec(), folder.last_step("1.0")) == (None, None, 0)
    assert folder.steps("1.0") == records.Reading([], 0)


def test_of_a_file_that_is_too_long_the_beginning_counts_and_the_rest_is_said(tmp_path, monkeypatch):
    line = json.dumps({"step": 1, "time_s": 1.0, "time_min_s": 1.0, "time_mean_s": 1.0, "slowest": 0}) + "\n"
    path = tmp_path / "steps.jsonl"
    path.write_text(line * 10)
    monkeypatch.setattr(records, "MAX_BYTES", len(line) * 3 + 5)
    reading = records.read_lines(path, Step)
    assert (len(reading.records), reading.rejected) == (3, 1)
    monkeypatch.setattr(records, "MAX_BYTES", len(line) * 10)
    assert len(records.read_lines(path, Step).records) == 10
    monkeypatch.setattr(records, "MAX_BYTES_OF_ONE", len(line) - 2)
    path.write_text(line.strip())
    assert records.read_one(path, Step) is None
