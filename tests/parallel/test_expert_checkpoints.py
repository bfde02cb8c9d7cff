"""A mixture of experts goes on on another mesh: experts, and the biases of its routers, which no optimizer knows.

Tolerance as in test_checkpoints. Without the biases the steps after are 1e-4 off (measured).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_experts import STEPS, TOLERANCE, Cell, _oracle, _work

SAVED = 3
ALONE, EP2, EP4 = Cell("single", {}, 1, 4), Cell("ep", {}, 2, 4), Cell("ep", {}, 4, 4)
SHARDED = Cell("hybrid", {"mesh": "dp_shard=4,ep=2"}, 4, 4)
PIPELINE = Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "schedule": "zbv"}, 4, 4)
FSDP = Cell("fsdp", {}, 4, 4)
PAIRS = [
    (EP2, ALONE, "adamw", False),
    (SHARDED, EP4, "adamw", False),
    (ALONE, EP2, "sgd", True),
    (Cell("ep", {"degree": 2}, 4, 4), FSDP, "adamw", True),
    (PIPELINE, EP2, "sgd", True),
    (FSDP, PIPELINE, "adamw", True),
    (Cell("fsdp", {}, 2, 4), SHARDED, "sgd", True),
]


def _run(pools: Any, case: str, cell: Cell, work: dict[str, Any], **more: Any) -> list[float]:
    arguments = {"strategy": cell.strategy, "strategy_options": cell.options, "grad_accum": cell.grad_accum, **work}
    pool = pools(max(2, cell.ranks))
    answers = pool.run(f"checkpoint_cases.{case}", world_size=cell.ranks, **arguments, **more)
    per_step = zip(*(answer for answer in answers if answer), strict=True)
    return [sum(loss for loss, _ in ranks) / sum(weight for _, weight in ranks) for ranks in per_step]


@pytest.mark.parametrize(
    ("before", "after", "optimizer"),
    [
        pytest.param(*pair, marks=[pytest.mark.full] * full, id=f"{pair[0]}-to-{pair[1]}-{pair[2]}")
        for *pair, full in PAIRS
    ],
)
def test_a_mixture_goes_on_on_another_mesh(
    pools: Any, tmp_path: Path, before: Cell, after: Cell, optimizer: str
) -> None:
    work = _work(optimizer)
    expected = _oracle(pools, work).losses
    first = _run(pools, "train_and_save", before, work, folder=str(tmp_path), steps=SAVED)
    assert first == pytest.approx(expected[:SAVED], abs=TOLERANCE, rel=0)
    rest = _run(pools, "load_and_train", after, work, folder=str(tmp_path), done=SAVED, steps=STEPS)
    assert rest == pytest.approx(expected[SAVED:], abs=TOLERANCE, rel=0)
