"""What a real slurmdbd says that jobs used stands beside what the runs measured."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(900)]


def _collected(slurm: Any, runs: Path, **options: Any) -> dict[str, Any]:
    done = slurm.hpcpar("collect", str(runs), "--format", "json", code=None, **options)
    assert done.returncode in (0, 1), done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_measured_and_billed_hours_stand_side_by_side(slurm: Any, tmp_path: Path, counted: Any) -> None:
    runs = tmp_path / "runs"
    slurm.hpcpar(
        *("submit", "--cluster", "slurm-test", "--workload", "clockwork", "--strategy", "clockwork", "--nodes", "2"),
        *("--steps", "12", "--warmup-steps", "2", "--repeats", "2", "--runs", str(runs)),
    )
    slurm.wait(runs, lambda status: all(row["state"] in ("done", "failed") for row in status["rows"]), 400)
    end = time.monotonic() + 120  # slurmdbd is told of an end some seconds after it
    while (cost := _collected(slurm, runs)["cost"][0])["runs_accounted"] < 2:
        assert time.monotonic() < end, cost
        time.sleep(1)

    assert (cost["nodes"], cost["runs"], cost["runs_without_result"]) == (2, 2, 0)
    # Slurm counts whole seconds, from the allocation on; the worker begins later and is done before the job is.
    assert cost["billed_node_h"] >= cost["measured_node_h"] - 2 * 2 * 1 / 3600
    assert cost["billed_node_h"] < 20 * cost["measured_node_h"]
    kept = [json.loads(line) for path in runs.glob("*/*/submission.jsonl") for line in path.read_text().splitlines()]
    accounts = [line["accounting"] for line in kept if line["kind"] == "accounted"]
    assert [(one["state"], one["nodes"]) for one in accounts] == [("COMPLETED", 2)] * 2

    counted()
    _collected(slurm, runs, env={"PATH": counted.path})
    assert counted()["sacct"] == 0, "what is noted is not asked for again"
