"""What ranks hold and move is what the formulas say, to the byte, counted on real tensors and real collectives."""

from __future__ import annotations

from typing import Any

import formulas
import matrix
import pytest
from matrix import Column, Row

EVERYDAY = {
    "ddp",
    "fsdp shard_size=2",
    "tp sequence_parallel loss_parallel",
    "cp degree=2",
    "ep degree=2 capacity=1.0",
    "pp zbv",
    "hybrid pp=2,dp_shard=-1",
    "localsgd period=1",
}


def _rows() -> Any:
    for row in formulas.rows():
        yield pytest.param(row, marks=[] if str(row) in EVERYDAY else [pytest.mark.full], id=str(row))


def test_the_everyday_rows_are_rows_of_the_matrix() -> None:
    assert {str(row) for row in formulas.rows()} >= EVERYDAY


@pytest.mark.parametrize("row", list(_rows()))
def test_bytes_are_those_of_the_formulas(pools: Any, row: Row) -> None:
    cell = matrix.cell(formulas.workload_of(row), row, Column("adamw", 1 if row.one_process else 4, "adamw"))
    assert cell.job is not None, cell.refusal
    ranks = pools(4).run("ledger_cases.ledger", job=cell.job)
    for rank, found in enumerate(ranks[: cell.job.identity.mesh.world_size]):
        assert found.moved == formulas.moved(cell.job, rank)
        assert (found.parameters, found.gradients, found.optimizer) == formulas.held(cell.job, rank)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_full_sharding_takes_a_share_of_every_byte(pools: Any, optimizer: str) -> None:
    """12 bytes a parameter with SGD and momentum, 16 with AdamW, over the ranks; said here without the formulas."""
    cell = matrix.cell("llama-tiny", Row("fsdp"), Column("x", 4, optimizer))
    alone = matrix.cell("llama-tiny", Row("single", one_process=True), Column("x", 1, optimizer))
    parameters = sum(
        value.size for value in pools(4).run("matrix_cases.prove", job=alone.job, steps=1)[0].weights.values()
    )
    for found in pools(4).run("ledger_cases.ledger", job=cell.job):
        each = {"sgd": 12, "adamw": 16}[optimizer]
        assert 4 * (found.parameters + found.gradients + found.optimizer) == each * parameters
