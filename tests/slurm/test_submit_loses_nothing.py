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
STUDY = (
    *("--workload", "mlp", "--strategy", "ddp", "--nodes", "1", "2", "--repeats", "2", "--steps", "5"),
    *("--name", "crash"),
)


@pytest.fixture
def held(slurm: Any) -> Any:
    """A partition that takes jobs and starts none, so that the queue shows all that was ever accepted."""
    slurm.run("scontrol", "update", "PartitionName=short", "State=DOWN")
    yield slurm
    slurm.cancel_all()
    slurm.run("scontrol", "update", "PartitionName=short", "State=UP")


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
    # The gate only looks, before the first boundary.
    submit = ("--cluster", "slurm-test", "--partition", "short", "--no-gate", *STUDY[:-2])
    done = held.run(sys.executable, str(CRASH), str(tmp_path), *submit, timeout=380)
    whole, *tries = [json.loads(line) for line in done.stdout.splitlines()]
    assert whole["code"] == 0
    assert set(whole["final"].values()) == {1}
    assert len(whole["final"]) == 4
    assert len(tries) == whole["passed"] > 40, "folders, specs, scripts, manifests, payloads, journal, sbatch"
    for one in tries:
        assert one["code"] == -signal.SIGKILL, f"not a place of death: {one}"
        assert set(one["after_kill"]) <= set(one["adopted"]), f"status did not find an accepted job: {one}"
        assert one["last_code"] == 0
        assert one["final"] == dict.fromkeys(one["final"], 1), f"a run was submitted twice: {one}"
        assert len(one["final"]) == 4, f"a run is missing: {one}"
    assert {len(one["after_kill"]) for one in tries} == {0, 2, 4}, "deaths before, between and after the two arrays"


def test_a_kill_while_sbatch_is_on_its_way_is_waited_for_and_adopted(held: Any, tmp_path: Path) -> None:
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    real = subprocess.run(["sh", "-c", "command -v sbatch"], capture_output=True, text=True).stdout.strip()
    reached = tmp_path / "reached"
    slow = f'touch "{reached}"; sleep 8'
    wrapper.write_text(f'#!/bin/sh\n[ "$1" = --test-only ] || {{ {slow}; }}\nexec {real} "$@"\n')
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
    # With the gate Slurm would be asked before anything is written.
    command = ("submit", "--cluster", "slurm-test", "--no-gate", *STUDY, "--runs", str(tmp_path))
    done = slurm.hpcpar(*command, "--partition", "nosuch", code=1)
    assert "invalid partition" in done.stderr.lower()
    assert slurm.status(tmp_path)["counts"] == {"planned": 4}
    slurm.hpcpar(*command)
    assert sum(slurm.status(tmp_path)["counts"].values()) == 4
