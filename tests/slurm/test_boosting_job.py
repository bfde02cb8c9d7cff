"""Gradient-boosted trees on a real multi-node Slurm, from submit to the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xgboost", reason="xgboost is not installed (pip install 'hpcpar[xgboost-cpu]')")
pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(1000)]


def test_the_collective_scales_over_nodes_and_leaves_nothing_behind(slurm: Any, tmp_path: Path) -> None:
    slurm.hpcpar(
        *("submit", "--cluster", "slurm-test", "--workload", "xgboost", "--strategy", "xgb-collective"),
        *("--nodes", "1", "2", "4", "--ranks-per-node", "1", "--repeats", "3", "--steps", "8", "--warmup-steps", "2"),
        *("--global-batch", "20000", "--set", "levels=8", "--set", "evaluation_rows=4000", "--set", "max_depth=4"),
        *("--runs", str(tmp_path)),
    )
    status = slurm.wait(tmp_path, lambda said: all(row["state"] in ("done", "failed") for row in said["rows"]), 700)
    assert status["counts"] == {"done": 9}, status
    answer = json.loads(slurm.hpcpar("collect", str(tmp_path), "--format", "json").stdout)
    (table,) = answer["tables"]
    assert [(row["nodes"], row["runs_ok"]) for row in table["rows"]] == [(1, 3), (2, 3), (4, 3)]
    losses = [row[name] for row in table["rows"] for name in ("loss_last_min", "loss_last_max")]
    assert losses == pytest.approx([losses[0]] * 6, abs=1e-6), "values that are bins of their own: the same decisions"
    slurm.wait(tmp_path, lambda _: not slurm.jobs(), 60)  # the result is written before the last job has ended
