"""Mixtures of experts compute what one process computes, under every mesh; and ep spreads their experts.

Tolerance and planted error as in test_parity. Routing is discrete: a rounding error of 1e-7 in two scores that are
equally near would send a token elsewhere. It does not happen with these seeds, and the counts are compared as well.
"""

from __future__ import annotations

from typing import Any

import pytest
from test_parity import ADAMW, AGAIN, SGD, STEPS, TOLERANCE, Cell, _losses, _oracle

SHAPE = {"dim": 32, "heads": 4, "kv_heads": 2, "hidden": 24, "layers": 4, "sequence": 16, "experts": 4}
# A hundred times the published values, so that a wrong balance shows within six steps.
MOE = {**SHAPE, "balance_loss": 0.01, "balance_rate": 0.1}
OPTIMIZERS = {"sgd": SGD, "adamw": ADAMW}
CELLS = [
    Cell("single", {}, 1, 4),
    Cell("single", AGAIN, 1, 2),
    Cell("layerwise", {}, 1, 2),
    Cell("ep", {}, 2, 1),
    Cell("ep", {}, 2, 2),
    Cell("ep", AGAIN, 2, 2),
    Cell("ep", {}, 4, 2),
    Cell("ep", {"degree": 2}, 4, 1),
    Cell("hybrid", {"mesh": "dp=2,ep=2"}, 2, 1),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2"}, 4, 2),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "schedule": "zbv"}, 4, 4),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "schedule": "zero-bubble"}, 4, 4),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "schedule": "dualpipev"}, 4, 4),
    Cell("hybrid", {"mesh": "pp=2,dp_shard=2,ep=2", "schedule": "interleaved-1f1b"}, 4, 2),
    Cell("hybrid", {"mesh": "dp_shard=2,ep=2"}, 2, 2),
    Cell("hybrid", {"mesh": "dp_shard=4,ep=2"}, 4, 2),
    Cell("hybrid", {"mesh": "dp=2,dp_shard=2,ep=4"}, 4, 2),
    Cell("hybrid", {"mesh": "dp=2,cp=2,ep=2"}, 4, 2),
    Cell("ddp", {}, 2, 2),
    Cell("ddp", {"static_graph": True}, 2, 2),
    Cell("fsdp", {}, 4, 2),
    Cell("fsdp", {"cpu_offload": True, **AGAIN}, 2, 2),
    Cell("pp", {}, 2, 4),
    Cell("pp", {"schedule": "zbv"}, 2, 4),
    Cell("pp", {"schedule": "zero-bubble"}, 2, 4),
    Cell("pp", {"schedule": "dualpipev"}, 2, 4),
    Cell("tp", {}, 2, 2),
    Cell("tp", {"loss_parallel": True}, 2, 2),
    Cell("cp", {}, 2, 2),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_equals_one_process(pools: Any, cell: Cell, optimizer: str) -> None:
    work = {
        "workload": "llama-moe",
        "workload_options": {**MOE, **OPTIMIZERS[optimizer]},
        "global_batch": 16,
    }
    expected = _oracle(pools, work)
    assert _losses(pools, cell, work) == pytest.approx(expected, abs=TOLERANCE, rel=0)
    planted = _losses(pools, cell, work, steps=3, plant=True)
    assert planted != pytest.approx(expected[:3], abs=TOLERANCE, rel=0), "a wrong gradient must be seen"
