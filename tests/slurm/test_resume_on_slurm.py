"""Interrupted on a real Slurm, a run goes on from its checkpoint; its losses are those of a run that nobody touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpcpar.records import Step
from hpcpar.runs import RunFolder

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(1200)]

_TWICE = """
cluster = "slurm-test"
workload = "llama-tiny"
strategies = ["ddp"]
steps = 80
repeats = 2
time = "20m"
[checkpoint]
every = 5
requeue = true
"""
_LIMITED = """
cluster = "slurm-test"
workload = "mlp"
strategies = ["ddp"]
steps = 1000000
time = "1m"
[checkpoint]
before_limit = "30s"
requeue = true
"""


def _submit(slurm: Any, folder: Path, study: str) -> Path:
    (folder / "study.toml").write_text(study)
    slurm.hpcpar("submit", str(folder / "study.toml"), "--runs", str(folder / "runs"))
    return folder / "runs"


def _kept(folder: RunFolder) -> list[Step]:
    record = folder.record()
    assert record is not None
    spans = [(span.attempt, span.first, span.last) for span in record.lineage] or [(record.attempt, 1, record.steps)]
    return [step for name, first, last in spans for step in folder.steps(name).records if first <= step.step <= last]


def test_a_requeued_run_and_one_told_to_leave_go_on(slurm: Any, tmp_path: Path) -> None:
    runs = _submit(slurm, tmp_path, _TWICE)

    def disturbed(status: dict[str, Any]) -> dict[str, Any]:
        (row,) = [row for row in status["rows"] if row["repeat"] == 1]
        return dict(row)

    def steps_in_attempt(number: int) -> Any:
        return lambda s: disturbed(s)["attempts"] == number and disturbed(s)["step"] >= 12 * number

    row = disturbed(slurm.wait(runs, steps_in_attempt(1), 300))
    slurm.run("scontrol", "requeue", row["job_id"])
    slurm.wait(runs, steps_in_attempt(2), 300)
    slurm.run("scancel", "--signal=USR1", row["job_id"])  # what --signal has Slurm send; the script asks to be requeued
    status = slurm.wait(runs, lambda s: all(row["state"] in ("done", "failed") for row in s["rows"]), 900)
    assert status["counts"] == {"done": 2}, status
    touched, untouched = sorted((RunFolder(Path(row["folder"])) for row in status["rows"]), key=_repeat)
    assert [step.step for step in _kept(touched)] == list(range(1, 81))
    assert [step.loss for step in _kept(touched)] == [step.loss for step in _kept(untouched)]
    record = touched.record()
    assert record is not None
    job = row["job_id"]
    assert [span.attempt for span in record.lineage] == [f"{job}.0", f"{job}.1", f"{job}.2"]
    for span in record.lineage[:2]:
        assert span.last == touched.last_step(span.attempt), "a requeue sends SIGTERM first: nothing is lost either way"
    assert untouched.record().lineage == []  # type: ignore[union-attr]


def _repeat(folder: RunFolder) -> int:
    spec = folder.spec()
    assert spec is not None
    return spec.identity.repeat


def test_before_its_time_limit_a_run_saves_and_is_requeued(slurm: Any, tmp_path: Path) -> None:
    runs = _submit(slurm, tmp_path, _LIMITED)
    status = slurm.wait(runs, lambda s: s["rows"][0]["attempts"] == 2 and s["rows"][0]["state"] == "running", 300)
    folder = RunFolder(Path(status["rows"][0]["folder"]))
    first, second = folder.attempts()
    errors = [event.data for event in folder.events(first).records if event.kind == "error"]
    last = folder.last_step(first)
    assert [(data["cause"], data["message"]) for data in errors] == [
        ("timeout", f"SIGUSR1 stopped it after step {last}; its checkpoint is there")
    ]
    slurm.wait(runs, lambda _: bool(folder.steps(second).records), 120)
    assert folder.steps(second).records[0].step == last + 1
