"""Two runs with one seed on one mesh give the same losses, bit for bit, on CPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_parity import ADAMW, LLAMA, Cell, _losses
from worker_runs import ATTEMPT, finish, make_run, start

CELLS = [
    Cell("ddp", {}, 2, 2),
    Cell("fsdp", {}, 2, 2, full=True),
    Cell("tp", {}, 2, 2, full=True),
    Cell("cp", {}, 2, 2, full=True),
    Cell("pp", {"schedule": "1f1b"}, 2, 2, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp=2"}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "dp_shard=2,tp=2"}, 4, 2, full=True),
]
WORK = {"workload": "llama-tiny", "workload_options": {**LLAMA, **ADAMW}, "global_batch": 16}


@pytest.mark.parametrize("cell", [pytest.param(c, marks=[pytest.mark.full] * c.full, id=str(c)) for c in CELLS])
def test_a_mesh_gives_the_same_losses_twice(pools: Any, cell: Cell) -> None:
    assert _losses(pools, cell, WORK) == _losses(pools, cell, WORK)


@pytest.mark.full
def test_two_runs_of_processes_of_their_own_have_the_same_steps_and_evaluation(tmp_path: Path) -> None:
    def run(name: str) -> tuple[list[float | None], Any]:
        folder = make_run(tmp_path / name, "ddp", workload="nbow", steps=12, global_batch=32)
        assert finish(folder, start(folder)) == 0
        record = folder.record()
        assert record is not None
        return [step.loss for step in folder.steps(ATTEMPT).records], record.evaluation

    first, second = run("first"), run("second")
    assert first == second
    assert len(set(first[0])) == 12
