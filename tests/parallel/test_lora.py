"""Low-rank adapters: the formula, what is trained and what is not, and that every mesh does the same.

Tolerance and planted error as in test_parity; every point of the mesh is in the matrix (test_matrix.py, `full`).
"""

from __future__ import annotations

from typing import Any

import lora_cases
import pytest
from test_parity import TOLERANCE, Cell, _losses, _oracle

SHAPE = {"dim": 32, "heads": 8, "kv_heads": 4, "hidden": 48, "layers": 4, "sequence": 16, "rank": 4}
SGD = {"optimizer": "sgd", "lr": 0.005, "momentum": 0.9}
"""Small enough that rounding is not amplified."""
WORK = {"workload": "llama-lora", "workload_options": {**SHAPE, **SGD}, "global_batch": 16}
CELLS = [
    Cell("ddp", {}, 2, 2),
    Cell("fsdp", {}, 2, 1, full=True),
    Cell("tp", {}, 2, 1, full=True),
    Cell("pp", {"schedule": "1f1b"}, 2, 2, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp=2"}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "dp_shard=2,tp=2"}, 4, 2, full=True),
]


@pytest.mark.parametrize("cell", [pytest.param(c, marks=pytest.mark.full if c.full else []) for c in CELLS], ids=str)
def test_equals_one_process(pools: Any, cell: Cell) -> None:
    expected = _oracle(pools, WORK)
    assert _losses(pools, cell, WORK) == pytest.approx(expected, abs=TOLERANCE, rel=0)
    planted = _losses(pools, cell, WORK, steps=3, plant=True)
    assert planted != pytest.approx(expected[:3], abs=TOLERANCE, rel=0), "a wrong gradient must be seen"


@pytest.mark.parametrize(("adapt", "a_block"), [("all", 7), ("attention", 4)])
def test_only_adapters_are_trained(adapt: str, a_block: int) -> None:
    before, after, trained, states = lora_cases.weights_around_a_training({**SHAPE, **SGD, "adapt": adapt})

    adapters = {
        name for name in before if name.endswith((".down.weight", ".up.weight")) and "feed_forward.up.w" not in name
    }
    assert len(adapters) == 2 * a_block * SHAPE["layers"]
    assert trained == states == adapters
    assert {name for name in before if not before[name].equal(after[name])} == adapters


def test_an_adapter_adds_its_product_to_a_frozen_layer() -> None:
    got, expected = lora_cases.an_adapted_layer()
    assert got == pytest.approx(expected, rel=1e-6)


def test_at_the_start_an_adapter_adds_nothing_whatever_it_counts() -> None:
    little, much = (lora_cases.losses({**SHAPE, **SGD}, alpha) for alpha in (1.0, 64.0))
    assert little[0] == much[0]
    assert little[2] != much[2]


def test_a_frozen_parameter_counts_four_operations_and_a_trained_one_six() -> None:
    flops, formula = lora_cases.operations({**SHAPE, "adapt": "attention"})
    assert flops == pytest.approx(formula)
