"""Killing submit at any moment loses no job and doubles none: every write, rename and sbatch is a place to die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]

CRASH = Path(__file__).with_name("crash_submit.py")
STUDY = ("--workload", "mlp", "--strategy", "ddp", "--nodes", "1", "2", "--repeats", "2", "--steps", "5", "--name", "crash")


@pytest.fixture
def held(slurm: Any) -> Any:
    """A partition that takes jobs and starts none, so that the queue shows all that was ever accepted."""
    slurm.run("scontrol", "update", "PartitionName=short", "State=DOWN")
    yield slurm
    slurm.cancel_all()
    slurm.run("scontrol", "update", "PartitionName=short", "State=UP")


def _crash(slurm: Any, boundary: int, *arguments: str, **environment: str) -> int:
    done = slurm.run(sys.executable, str(CRASH), str(boundary), *arguments, env=environment, code=None)
    assert done.returncode in (0, 1, -signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    return int(done.returncode)


def _queued_runs(slurm: Any, runs: Path) -> Counter[str]:
    """Count how often each run stands in Slurm's queue: by the batch in the job's name, and the batch's manifest."""
    counts: Counter[str] = Counter()
    for line in slurm.jobs():
        name, task, *_ = line.split("|")
        if not name.startswith("hpcpar-crash-"):
            continue
        manifest = runs / "crash" / "batches" / name.rpartition("-")[2] / "manifest.jsonl"
        if not manifest.exists():
            continue
        lines = [json.loads(text) for text in manifest.read_text().splitlines() if text.strip()]
        index = int(task) if task.isdigit() else 0
        counts[next(line["run"] for line in lines if line["kind"] == "run" and line.get("index") == index)] += 1
    return counts


def test_a_kill_at_every_boundary_loses_and_doubles_no_run(held: Any, tmp_path: Path) -> None:
    submit = ("submit", "--cluster", "slurm-test", "--partition", "short", *STUDY, "--runs")
    count = tmp_path / "count"
    assert _crash(held, 0, *submit, str(tmp_path / "whole"), CRASH_COUNT=str(count)) == 0
    boundaries = int(count.read_text())
    assert boundaries > 40, "folders, specs, scripts, manifests, payloads, journal, sbatch, each before and after"
    whole = _queued_runs(held, tmp_path / "whole")
    assert len(whole) == 4
    assert set(whole.values()) == {1}
    killed = 0
    for boundary in range(1, boundaries + 1):
        runs = tmp_path / f"at{boundary}"
        killed += _crash(held, boundary, *submit, str(runs)) != 0
        accepted = _queued_runs(held, runs)
        if (runs / "crash").is_dir():
            _crash(held, 0, "status", str(runs), "--json")
            for name in accepted:  # adopted: its submission line is there
                assert "submitted" in (runs / "crash" / name / "submission.jsonl").read_text(), f"boundary {boundary}"
        _crash(held, 0, *submit, str(runs))
        final = _queued_runs(held, runs)
        assert len(final) == 4, f"boundary {boundary}: a run is missing: {final}"
        assert set(final.values()) == {1}, f"boundary {boundary}: a run was submitted twice: {final}"
        held.cancel_all()
    assert killed == boundaries, "every boundary was a place of death"


def test_a_kill_while_sbatch_is_on_its_way_is_waited_for_and_adopted(held: Any, tmp_path: Path) -> None:
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    real = subprocess.run(["sh", "-c", "command -v sbatch"], capture_output=True, text=True).stdout.strip()
    reached = tmp_path / "reached"
    wrapper.write_text(f'#!/bin/sh\ntouch "{reached}"\nsleep 3\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    runs = tmp_path / "runs"
    command = ("submit", "--cluster", "slurm-test", "--partition", "short", *STUDY, "--runs", str(runs))
    environment = {**held.environment, "PATH": f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        [sys.executable, *_exec(), sys.executable, "-m", "hpcpar", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 30
    while not reached.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # submit dies; its sbatch has a session of its own and goes on
    process.wait(timeout=10)
    refused = held.hpcpar(*command, code=None)
    assert refused.returncode == 2, "the answer is not known yet: submitting again could double the jobs"
    assert "interrupted" in refused.stderr
    status = held.wait(runs, lambda s: s["counts"].get("queued", 0) == 2, 30)
    assert status["counts"] == {"planned": 2, "queued": 2}, "the batch on its way is adopted, the other never left"
    held.hpcpar(*command)
    assert set(_queued_runs(held, runs).values()) == {1}
    assert len(_queued_runs(held, runs)) == 4


def _exec() -> tuple[str, str]:
    return (str(Path(__file__).resolve().parents[2] / "examples" / "slurm-cluster"), "exec")


def test_a_refusal_by_slurm_is_told_and_leaves_the_runs_planned(slurm: Any, tmp_path: Path) -> None:
    command = ("submit", "--cluster", "slurm-test", *STUDY, "--runs", str(tmp_path))
    done = slurm.hpcpar(*command, "--partition", "nosuch", code=1)
    assert "invalid partition" in done.stderr.lower()
    assert slurm.status(tmp_path)["counts"] == {"planned": 4}
    slurm.hpcpar(*command)
    assert sum(slurm.status(tmp_path)["counts"].values()) == 4
