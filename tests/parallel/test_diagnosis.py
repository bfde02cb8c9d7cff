"""The steps after the training: squared lengths of gradients are the true ones, and change nothing of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_parity import LLAMA, MLP, SGD, TOLERANCE, Cell, _oracle, _reduce
from worker_runs import finish, make_run, start

WORK = {"workload": "mlp", "workload_options": {**MLP, **SGD}, "global_batch": 32}
CELLS = [
    Cell("ddp", {}, 2, 1),
    Cell("ddp", {}, 2, 2, full=True),
    Cell("single", {}, 1, 4, full=True),
    Cell("ddp", {"bucket_mb": 0.01}, 4, 2, full=True),
]


def _run(pools: Any, case: str, cell: Cell, work: dict[str, Any] = WORK, **more: Any) -> list[Any]:
    arguments = {"strategy": cell.strategy, "strategy_options": cell.options, "grad_accum": cell.grad_accum, **more}
    pool = pools(max(2, cell.ranks))
    return pool.run(f"diagnosis_cases.{case}", world_size=cell.ranks, **work, **arguments)[: cell.ranks]


@pytest.mark.parametrize("cell", [pytest.param(c, marks=[pytest.mark.full] * c.full, id=str(c)) for c in CELLS])
def test_squares_are_those_of_the_samples_gradients_and_training_goes_on(pools: Any, cell: Cell) -> None:
    answers = _run(pools, "squares_between_steps", cell, steps=6)
    size = answers[0]["small_batch"]
    assert size == max(1, 32 // cell.ranks // cell.grad_accum // 8)
    assert all(answer["squares"] == answers[0]["squares"] for answer in answers)
    expected = pools(2).run("diagnosis_cases.squares_by_hand", sizes=(size, 32), **WORK)[0]
    assert answers[0]["squares"][0] == pytest.approx(tuple(expected), rel=1e-4)
    assert _reduce([answer["losses"] for answer in answers]) == pytest.approx(
        _oracle(pools, WORK), abs=TOLERANCE, rel=0
    )


SEEN = [Cell("ddp", {}, 2, 1), Cell("fsdp", {}, 2, 1, full=True), Cell("pp", {}, 2, 2, full=True)]


@pytest.mark.parametrize("cell", [pytest.param(c, marks=[pytest.mark.full] * c.full, id=str(c)) for c in SEEN])
def test_what_communicates_is_seen(pools: Any, cell: Cell) -> None:
    work = {"workload": "llama-tiny", "workload_options": {**LLAMA, **SGD}, "global_batch": 16}
    answers = _run(pools, "diagnosis", cell, work)
    for found in answers:
        assert (found.after_step, found.profiled_steps) == (1, 4)
        assert 0 < found.exposed_s <= found.communication_s <= found.wall_s
        assert 0 < found.compute_s <= found.wall_s
        assert len(found.squares) == (4 if cell.strategy == "ddp" else 0)


@pytest.mark.full
def test_a_run_records_it_in_a_phase_of_its_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "ddp", steps=8, diagnose_steps=4)
    assert finish(folder, start(folder)) == 0
    record = folder.record()
    assert record is not None
    assert record.diagnosis is not None
    assert (record.diagnosis.after_step, record.diagnosis.profiled_steps, record.diagnosis.small_batch) == (8, 4, 4)
    assert record.phases["diagnose"] > 0
    assert record.steps == 8
    plain = make_run(tmp_path / "plain", "ddp", steps=8)
    assert finish(plain, start(plain)) == 0
    without = plain.record()
    assert without is not None
    assert (without.loss_last, without.evaluation) == (record.loss_last, record.evaluation)
