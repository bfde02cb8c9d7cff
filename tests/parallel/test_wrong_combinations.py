"""Combinations that PyTorch trains wrongly without a word: each is shown to be wrong, and right (or refused) here.

Where one of these fails because torch has learnt it, the rule that it holds can go (docs/strategies.md, the table).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_parity import LLAMA, SGD, TOLERANCE, Cell, _losses, _oracle, _reduce

import hpcpar.worker

SMALL = {**LLAMA, "layers": 2}
CLIPPED = {**SMALL, "max_grad_norm": 0.1}
WRONG = [
    ("pipeline_of_ddp", Cell("hybrid", {"mesh": "pp=2,dp=2", "schedule": "1f1b"}, 4, 2), SMALL),
    ("composable_replicate", Cell("tp", {"degree": 2}, 4, 1), SMALL),
    ("compiled_after_waiting", Cell("tp", {"compile": True}, 2, 1), SMALL),
    ("norm_of_a_part", Cell("fsdp", {}, 2, 1), CLIPPED),
    ("norm_of_a_part", Cell("tp", {}, 2, 1, full=True), CLIPPED),
    ("norm_of_a_part", Cell("pp", {"schedule": "1f1b"}, 2, 2, full=True), CLIPPED),
]


def _rows() -> Iterator[Any]:
    for how, cell, shape in WRONG:
        yield pytest.param(how, cell, shape, marks=[pytest.mark.full] if cell.full else [], id=f"{how}-{cell}")


@pytest.mark.parametrize(("how", "cell", "shape"), list(_rows()))
def test_is_wrong_when_done_naively_and_right_here(pools: Any, how: str, cell: Cell, shape: dict[str, Any]) -> None:
    work = {"workload": "llama-tiny", "workload_options": {**shape, **SGD}, "global_batch": 16}
    expected = _oracle(pools, work)
    more = {"strategy": cell.strategy, "strategy_options": cell.options, "grad_accum": cell.grad_accum}
    answers = pools(cell.ranks).run("wrong_cases.train", how=how, world_size=cell.ranks, steps=6, **work, **more)
    naive = _reduce(answers)
    assert max(abs(a - b) for a, b in zip(naive, expected, strict=True)) > 100 * TOLERANCE
    assert _losses(pools, cell, work) == pytest.approx(expected, abs=TOLERANCE, rel=0)


def test_torchs_all_gather_loses_gradients_on_gloo(pools: Any) -> None:
    for got, right in pools(2).run("wrong_cases.gathered_gradients"):
        assert got != pytest.approx(right)


def test_the_worker_differentiates_through_no_such_collective() -> None:
    imported: set[str] = set()
    for path in Path(hpcpar.worker.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                imported.add(ast.unparse(node))
    assert "torch.distributed" in imported
    wrong = ("torch.distributed.nn", "distributed.nn")
    assert not [name for name in imported if name.startswith(wrong)]
