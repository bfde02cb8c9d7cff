"""The doctor, the gate and profiles on a real Slurm: what they say is what Slurm does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(1000)]

_JOB = ("--workload", "mlp", "--strategy", "ddp", "hybrid", "--nodes", "1", "2", "4", "--steps", "12", "--repeats", "2")
_ONE = ("--workload", "mlp", "--strategy", "ddp", "--nodes", "1", "--steps", "4")


def _finished(status: dict[str, Any]) -> bool:
    return all(row["state"] in ("done", "failed") for row in status["rows"])


def test_the_main_job_runs_unchanged_on_the_profile_that_was_detected(slurm: Any, tmp_path: Path) -> None:
    profile = tmp_path / "found.toml"
    slurm.hpcpar("cluster", "detect", "--out", str(profile))
    agreed = slurm.hpcpar("cluster", "verify", str(profile), "--json")
    assert json.loads(agreed.stdout)["agrees"] is True
    slurm.hpcpar("submit", "--cluster", str(profile), *_JOB, "--warmup-steps", "2", "--runs", str(tmp_path / "runs"))
    status = slurm.wait(tmp_path / "runs", _finished, 400)
    assert status["counts"] == {"done": 12}, status
    answer = json.loads(slurm.hpcpar("collect", str(tmp_path / "runs"), "--format", "json").stdout)
    rows = [row for table in answer["tables"] for row in table["rows"]]
    assert [row["runs_ok"] for row in rows] == [2] * 6


def test_the_gate_refuses_what_slurm_would_refuse_before_anything_is_written(slurm: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    submit = ("submit", "--cluster", "slurm-test", *_ONE, "--runs", str(runs))
    refused = slurm.hpcpar(*submit, "--partition", "nosuch", "--account", "nobody", code=2)
    assert "Slurm would refuse it" in refused.stderr
    assert "invalid partition specified: nosuch" in refused.stderr
    too_long = slurm.hpcpar(*submit, "--partition", "short", "--time", "10m", code=2)
    assert "Requested time limit is invalid" in too_long.stderr
    assert "00:10:00 is longer than partition short allows (00:05:00)" in too_long.stderr
    assert not runs.exists()
    assert slurm.jobs() == []


def test_without_the_gate_slurm_refuses_and_the_submission_says_that_nobody_looked(slurm: Any, tmp_path: Path) -> None:
    submit = ("submit", "--cluster", "slurm-test", *_ONE, "--runs", str(tmp_path), "--no-gate")
    refused = slurm.hpcpar(*submit, "--partition", "nosuch", "--name", "refused", code=1)
    assert "invalid partition" in refused.stderr
    slurm.hpcpar(*submit, "--name", "taken")
    status = slurm.wait(tmp_path / "taken", _finished)
    assert status["counts"] == {"done": 1}
    lines = (Path(status["rows"][0]["folder"]) / "submission.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["gate"] == "skipped"


def test_a_profile_of_another_machine_is_told_apart(slurm: Any) -> None:
    assert json.loads(slurm.hpcpar("cluster", "verify", "slurm-test", "--json").stdout)["differences"] == []
    other = json.loads(slurm.hpcpar("cluster", "verify", "clariden", "--json", code=1).stdout)
    assert "node_types.gpu.partition" in [one["key"] for one in other["differences"]]


def test_with_accounting_stopped_the_doctor_says_what_it_could_not_see(slurm: Any, tmp_path: Path) -> None:
    slurm.script("stop-accounting")
    try:
        done = slurm.hpcpar("doctor", "--cluster", "slurm-test", *_ONE, "--runs", str(tmp_path), "--json")
    finally:
        slurm.script("start-accounting")
    lines = json.loads(done.stdout)
    assert {line["level"] for line in lines if line["check"] == "limits"} == {"unchecked"}
    assert [line["level"] for line in lines if line["check"] == "sbatch"] == ["ok"]


def test_a_job_that_the_account_cannot_pay_is_refused(slurm: Any, tmp_path: Path) -> None:
    limit = ("sacctmgr", "--immediate", "modify", "account", "lab", "set")
    submit = ("submit", "--cluster", "slurm-test", *_ONE, "--time", "3h", "--runs", str(tmp_path / "runs"))
    slurm.run(*limit, "GrpTRESMins=cpu=300")
    try:
        refused = slurm.hpcpar(*submit, code=2)
    finally:
        slurm.run(*limit, "GrpTRESMins=cpu=-1")
    assert "account lab: one job may use 6.0 CPU-hours, and" in refused.stderr
    assert "it would wait for ever" in refused.stderr
    assert not (tmp_path / "runs").exists()
