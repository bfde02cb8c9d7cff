"""A runs folder from a stranger is data: nothing in it is executed, waited for, read without end, or led out of."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from records_oracle import ideal

from hpcpar import assets, records
from hpcpar.cli import main
from hpcpar.control.again.requests import Asked
from hpcpar.decode import decode, read_toml
from hpcpar.policy import Policy, Reaction
from hpcpar.profile import ClusterProfile
from hpcpar.records import Step
from hpcpar.runs import RunFolder
from hpcpar.spec import Study

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = (
    ["status", "{runs}", "--json"],
    ["collect", "{runs}", "--offline", "--format", "json"],
    ["logs", "{run}"],
    ["doctor", "--cluster", "slurm-test", "--runs", "{runs}", "--json"],
    ["resubmit", "{runs}", "--json"],
    ["rerun", "{run}", "--json"],
    ["clean", "{runs}", "--checkpoints", "--logs", "--json"],
    ["cancel", "{run}", "--json"],
    ["plan", "--cluster", "./testbed.toml", "--workload", "mlp", "--json"],
)
_MEMORY = 1536 * 1024**2
_FILES = ("spec.json", "record.json", "submission.jsonl", "events.{a}.jsonl", "steps.{a}.jsonl", "logs")
_FILES += ("../requests.jsonl", "../batches/b/manifest.jsonl", "checkpoints", "../code")


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
    profile = assets.find("clusters", "slurm-test").read_text()
    (isolation / "testbed.toml").write_text(profile.replace('name = "slurm-test"', 'name = "testbed"'))
    for folder, name in zip(folders * len(_FILES), _FILES, strict=False):
        attempt = (folder.attempts() or ["0"])[0]
        path = folder.path / name.format(a=attempt)
        if path.is_dir():
            path.rename(path.with_name("moved"))
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    done = _run(arguments, runs, folders[0].path, os.environ)
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert "S3CRET" not in done.stdout + done.stderr
    assert not list(isolation.rglob("hacked"))


_EVIL = """
open({mark!r}, "w").close()
"""


@pytest.fixture
def strangers(isolation, commands, tmp_path):
    """A folder that somebody copied here, with all that would send its runs: a failed run, a policy, a program."""
    from stub_slurm import StubSlurm, began, failed

    evil = tmp_path / "evil.py"
    evil.write_text(_EVIL.format(mark=str(tmp_path / "hacked")))
    slurm = StubSlurm(commands, tmp_path)
    (run,) = ideal(nodes=(1,), repeats=1, failures={("ddp", 1, 1): "python_error"}).write(slurm.runs)
    spec = json.loads(run.spec_path.read_text())
    spec["workload_file"] = spec["identity"]["workload"] = f"{evil}:X"
    run.spec_path.write_text(json.dumps(spec))
    began(run, "1.0", "n1")
    failed(run, "1.0", "python_error", "n1")
    study = Study(
        name=run.path.parent.name,
        cluster="slurm-test",
        workload=f"{evil}:X",
        python=str(evil),
        policy=Policy(python_error=Reaction(retry=9)),
        max_queued=5,
    )
    profile = decode(ClusterProfile, read_toml(assets.find("clusters", "slurm-test")), "slurm-test")
    asked = Asked(time=1.0, study=study, profile=profile, where="x", python=str(evil), cwd=str(tmp_path), version="1")
    records.append(run.path.parent / "requests.jsonl", asked)
    return slurm, run


@pytest.mark.parametrize(
    ("words", "code"),
    [(["status"], 1), (["resubmit"], 2), (["resubmit", "--dry-run"], 2), (["rerun"], 2), (["collect", "--offline"], 1)],
)
def test_what_a_stranger_asked_for_is_neither_sent_nor_started(strangers, tmp_path, capsys, words, code):
    slurm, run = strangers
    place = run.path if words[0] == "rerun" else slurm.runs
    assert main([words[0], str(place), *words[1:]]) == code
    assert slurm.calls("sbatch") == 0
    assert not (tmp_path / "hacked").exists()
    if code == 2:
        assert "was not submitted by you at this place" in capsys.readouterr().err


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
