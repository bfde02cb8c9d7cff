"""Killing a worker at any moment leaves a run that status explains and collect shows."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

LONG = ("--workload", "mlp", "--steps", "1000000", "--cluster", "slurm-test", "--time", "4m")


def _running(status: dict[str, Any]) -> bool:
    return all(row["state"] == "running" and row["step"] > 0 for row in status["rows"])


def _ended(status: dict[str, Any]) -> bool:
    return all(row["state"] == "failed" for row in status["rows"])


def _processes(run: str, rank: int) -> list[int]:
    """Find the rank's process by its command line and Slurm's rank (the nodes' processes can be seen from here)."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and run in (entry / "cmdline").read_text()
                and "hpcpar.worker" in (entry / "cmdline").read_text()
            ):
                environment = (entry / "environ").read_bytes().split(b"\0")
                if f"SLURM_PROCID={rank}".encode() in environment:
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.full), 3])
def test_a_rank_that_is_killed_ends_the_run_with_a_cause(slurm: Any, tmp_path: Path, rank: int) -> None:
    slurm.hpcpar("submit", *LONG, "--strategy", "ddp", "--nodes", "2", "--runs", str(tmp_path))
    row = slurm.wait(tmp_path, _running)["rows"][0]
    victims = _processes(row["run"], rank)
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    row = slurm.wait(tmp_path, _ended, 60)["rows"][0]
    assert row["cause"] in ("killed", "network"), row
    assert row["step"] > 0, "what was recorded before is kept"
    _is_shown_by_collect(slurm, tmp_path, row["cause"])


def test_a_cancelled_job_is_called_cancelled(slurm: Any, tmp_path: Path) -> None:
    slurm.hpcpar("submit", *LONG, "--strategy", "ddp", "--nodes", "1", "--runs", str(tmp_path))
    row = slurm.wait(tmp_path, _running)["rows"][0]
    slurm.run("scancel", row["job_id"])
    row = slurm.wait(tmp_path, _ended, 60)["rows"][0]
    assert row["cause"] == "cancelled", row
    _is_shown_by_collect(slurm, tmp_path, "cancelled")


def test_hpcpar_cancel_ends_what_runs_and_what_waits(slurm: Any, tmp_path: Path) -> None:
    whole = ("--nodes", "4", "--ranks-per-node", "1", "--cpus-per-rank", "4", "--repeats", "3")
    slurm.hpcpar("submit", *LONG, "--strategy", "ddp", *whole, "--runs", str(tmp_path))
    rows = slurm.wait(tmp_path, lambda status: any(row["step"] > 0 for row in status["rows"]))["rows"]
    waiting = next(row for row in rows if row["state"] == "queued")
    slurm.hpcpar("cancel", waiting["folder"])
    states = {row["run"]: (row["state"], row["cause"]) for row in slurm.status(tmp_path)["rows"]}
    assert states.pop(waiting["run"]) == ("failed", "cancelled")
    assert sorted(state for state, _ in states.values()) == ["queued", "running"]
    slurm.hpcpar("cancel", str(tmp_path))
    rows = slurm.wait(tmp_path, _ended, 60)["rows"]
    assert {(row["state"], row["cause"]) for row in rows} == {("failed", "cancelled")}
    assert {row["note"] for row in rows} == {"by `hpcpar cancel`"}


def test_a_node_that_goes_down_is_called_node_fail(slurm: Any, tmp_path: Path) -> None:
    slurm.hpcpar("submit", *LONG, "--strategy", "ddp", "--nodes", "2", "--runs", str(tmp_path))
    slurm.wait(tmp_path, _running)
    nodes = slurm.run("squeue", "--noheader", "--format=%N").stdout.strip()
    last = slurm.run("scontrol", "show", "hostnames", nodes).stdout.split()[-1]
    slurm.run("scontrol", "update", f"NodeName={last}", "State=DOWN", "Reason=test")
    try:
        row = slurm.wait(tmp_path, _ended, 90)["rows"][0]
    finally:
        slurm.run("scontrol", "update", f"NodeName={last}", "State=RESUME", code=None)
    assert row["cause"] == "node_fail", row
    _is_shown_by_collect(slurm, tmp_path, "node_fail")


def test_a_program_that_cannot_start_is_called_launch(slurm: Any, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\ncase $* in *find_spec*) exit 0;; esac\necho no such module >&2\nexit 3\n")
    broken.chmod(0o755)
    runs = tmp_path / "runs"
    slurm.hpcpar("submit", *LONG, "--strategy", "ddp", "--nodes", "1", "--python", str(broken), "--runs", str(runs))
    row = slurm.wait(runs, _ended, 90)["rows"][0]
    assert row["cause"] == "launch", row
    logs = "".join(path.read_text() for path in (Path(row["folder"]) / "logs").iterdir())
    assert "no such module" in logs
    _is_shown_by_collect(slurm, runs, "launch")


@pytest.mark.full  # Slurm looks at limits every 30 s
def test_a_time_limit_is_called_timeout(slurm: Any, tmp_path: Path) -> None:
    slurm.hpcpar("submit", *LONG, "--strategy", "ddp", "--nodes", "1", "--runs", str(tmp_path))
    row = slurm.wait(tmp_path, _running)["rows"][0]
    slurm.run("scontrol", "update", f"JobId={row['job_id']}", "TimeLimit=00:00:01")
    row = slurm.wait(tmp_path, _ended, 120)["rows"][0]
    assert row["cause"] == "timeout", row


def test_a_requeued_job_runs_as_a_second_attempt(slurm: Any, tmp_path: Path) -> None:
    slurm.hpcpar("submit", *LONG, "--strategy", "ddp", "--nodes", "1", "--runs", str(tmp_path))
    row = slurm.wait(tmp_path, _running)["rows"][0]
    # The profile says --no-requeue; an administrator can still do it.
    slurm.run("scontrol", "update", f"JobId={row['job_id']}", "Requeue=1")
    slurm.run("scontrol", "requeue", row["job_id"])
    status = slurm.wait(tmp_path, lambda s: s["rows"][0]["attempts"] == 2 and _running(s), 90)
    assert status["rows"][0]["state"] == "running"
    attempts = sorted(path.name for path in Path(row["folder"]).glob("events.*.jsonl"))
    assert attempts == [f"events.{row['job_id']}.0.jsonl", f"events.{row['job_id']}.1.jsonl"]


def _is_shown_by_collect(slurm: Any, runs: Path, cause: str) -> None:
    end = time.monotonic() + 30
    while True:
        done = slurm.hpcpar("collect", str(runs), "--format", "json", code=1)
        problems = json.loads(done.stdout)["problems"]
        if [row["cause"] for row in problems] == [cause] or time.monotonic() > end:
            break
        time.sleep(1)
    assert [row["cause"] for row in problems] == [cause]
