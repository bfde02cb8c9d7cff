"""The parity matrix: a cell of every strategy every day, all of them under the mark `full` and in `make parity`."""

from __future__ import annotations

import math
import os
from typing import Any

import matrix
import pytest
from matrix import COLUMNS, Cell, Column, Row
from parity import ROOT, Prover, Verdict, text_of

from hpcpar import registry

NEURAL = [name for name in registry.STRATEGIES if registry.get_strategy(name).kinds & matrix.KINDS]
EVERYDAY_STEPS = 20
PLANTED_STEPS = 2


@pytest.fixture(scope="module")
def prover(pools: Any) -> Prover:
    return Prover(pools)


def first_cell(strategy: str) -> Cell:
    """Return the first cell of a strategy that is not refused, with as few ranks as make it parallel."""
    rows = [row for row in matrix.ROWS if row.strategy == strategy]
    columns = [column for column in COLUMNS if column.name in ("2 sgd", "4 sgd", "1 sgd")]
    columns.sort(key=lambda column: (2, 4, 1).index(column.ranks))
    places = (matrix.cell(w, row, column) for column in columns for row in rows for w in matrix.neural_workloads())
    return next(place for place in places if place.job)


def skip_what_is_missing(row: Row) -> None:
    package = matrix.missing(row)
    if package and not (package == "deepspeed" and os.environ.get("CI")):
        pytest.skip(f"{package} is not installed")


def test_every_neural_strategy_and_workload_has_its_place() -> None:
    assert sorted({row.strategy for row in matrix.ROWS}) == sorted(NEURAL), "add a row to matrix.ROWS"
    assert sorted(matrix.neural_workloads()) == sorted(matrix.SHAPES), "add an entry to matrix.SHAPES, or to SAME_CODE"
    assert set(matrix.SAME_CODE.values()) <= set(matrix.SHAPES)


def test_what_is_refused_and_why_is_pinned() -> None:
    pinned = (ROOT / "tests" / "parallel" / "refusals.txt").read_text(encoding="utf-8").splitlines()
    changed = "if this is meant: python docs/make_parity.py --refusals"
    assert list(matrix.refusals()) == pinned, changed


@pytest.mark.parametrize("strategy", NEURAL)
def test_a_strategy_computes_what_one_process_computes(prover: Prover, strategy: str) -> None:
    cell = first_cell(strategy)
    skip_what_is_missing(cell.row)
    verdict = prover.verdict(cell, steps=EVERYDAY_STEPS)
    assert verdict.agrees, text_of(cell, verdict)
    planted = prover.verdict(cell, plant=True, steps=PLANTED_STEPS)
    assert not planted.agrees, "a wrong gradient must be seen"


SHARDED = Row("fsdp", {"shard_size": 2})


@pytest.mark.parametrize("special", matrix.SPECIAL)
def test_clipping_accumulation_padding_and_recomputation(prover: Prover, special: str) -> None:
    cell = matrix.cell("mlp", SHARDED, Column(special, 4, "sgd", special))
    verdict = prover.verdict(cell, steps=EVERYDAY_STEPS)
    assert verdict.agrees, text_of(cell, verdict)
    planted = prover.verdict(cell, plant=True, steps=PLANTED_STEPS)
    assert not planted.agrees, "a wrong gradient must be seen"


@pytest.mark.parametrize("workload", matrix.neural_workloads())
@pytest.mark.parametrize("special", ["clip", "uneven"])
def test_a_special_column_is_about_something(prover: Prover, special: str, workload: str) -> None:
    """One process with and without it: else a strategy that forgets it would pass."""
    if special == "uneven" and workload in matrix.UNEVEN_ALREADY:
        loaded = registry.get_workload(workload)
        assert loaded.load(loaded.Options(), 1).sample_weight is None
        return
    plain = matrix.cell(workload, Row("single", one_process=True), COLUMNS[0])
    other = matrix.cell(workload, Row("single", one_process=True), Column(special, 4, "sgd", special))
    losses, other_losses = (prover._alone(cell.reference, 4, 1).losses for cell in (plain, other))
    assert max(abs(a - b) for a, b in zip(losses, other_losses, strict=True)) > 10 * matrix.LOSSES


def test_what_differs_by_rule_must_differ_and_sees_a_plant_too(prover: Prover) -> None:
    row = next(row for row in matrix.ROWS if "adamw" in row.differs)
    cell = matrix.cell("mlp", row, Column("2 adamw", 2, "adamw"))
    verdict = prover.verdict(cell, steps=4)
    assert text_of(cell, verdict).startswith("by rule ")
    assert text_of(cell, verdict._replace(losses=0.0, weights=0.0)) == "FAIL: agrees"
    assert not prover.verdict(cell, plant=True, steps=PLANTED_STEPS).agrees


@pytest.mark.parametrize("broken", [{"first": 2e-6}, {"losses": 2e-4}, {"weights": math.nan}, {"problem": "lost"}])
def test_one_number_out_of_bounds_is_enough(broken: dict[str, Any]) -> None:
    cell = matrix.cell("mlp", Row("ddp"), Column("2 sgd", 2, "sgd"))
    good = Verdict(1e-8, 1e-7, 1e-7)
    assert text_of(cell, good) == "pass"
    assert text_of(cell, good._replace(equal=True)) == "equal"
    assert text_of(cell, good._replace(**broken)).startswith("FAIL")


@pytest.mark.full
@pytest.mark.parametrize("workload", matrix.neural_workloads())
@pytest.mark.parametrize("row", matrix.ROWS, ids=str)
def test_every_cell_of_a_row(prover: Prover, row: Row, workload: str) -> None:
    skip_what_is_missing(row)
    cells = [matrix.cell(workload, row, column) for column in COLUMNS]
    found = {cell.column.name: text_of(cell, prover.verdict(cell)) for cell in cells if cell.job}
    assert not {name: words for name, words in found.items() if words.startswith("FAIL")}
