"""DeepSpeed's strategies compute what one process computes: the loss of every step agrees within 1e-5.

Tolerance: that of test_parity, as DeepSpeed's own arithmetic is that of torch here (the workload's optimizer, fp32
sums): measured, 1e-6 after 6 steps. The planted error in one gradient of one rank shows in every cell.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import pytest
from test_bands import BF16_BETWEEN_STRATEGIES
from test_parity import LLAMA, MLP, OPTIMIZERS, SGD, STEPS, TOLERANCE, WORKLOADS, Cell, _oracle, _reduce
from test_parity import _losses as _losses_of_mesh

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None and not os.environ.get("CI"),
    reason="DeepSpeed is not installed: pip install 'hpcpar[deepspeed]'",
)

ALL = {"stage": 3, "persistence_threshold": 0}
"""Every weight is sharded, however small."""
RECOMPUTED = {"activation_checkpointing": "full"}
CELLS = [
    Cell("deepspeed-zero", {"stage": 1}, 2, 2),
    Cell("deepspeed-zero", {"stage": 2}, 2, 2),
    Cell("deepspeed-zero", ALL, 2, 2),
    Cell("deepspeed-zero", {"stage": 1}, 4, 1, full=True),
    Cell("deepspeed-zero", {"stage": 2}, 4, 1, full=True),
    Cell("deepspeed-zero", {"stage": 3}, 4, 2, full=True),
    Cell("deepspeed-zero", {"stage": 1, "offload_optimizer": True}, 2, 2, full=True),
    Cell("deepspeed-zero", {"stage": 2, "offload_optimizer": True}, 2, 2),
    Cell("deepspeed-zero", {**ALL, "offload_parameters": True}, 2, 1, full=True),
    Cell("deepspeed-zero", {**ALL, "offload_optimizer": True, "offload_parameters": True}, 2, 2),
    Cell("deepspeed-tp", {}, 2, 1),
    Cell("deepspeed-tp", {}, 4, 2, full=True),
    Cell("deepspeed-tp", {"degree": 2}, 4, 2, full=True),
    Cell("deepspeed-tp", {"degree": 1}, 2, 2, full=True),
    Cell("deepspeed-pp", {}, 2, 2),
    Cell("deepspeed-pp", {}, 4, 4, full=True),
    Cell("deepspeed-pp", {"stages": 2}, 4, 2, full=True),
    Cell("deepspeed-zero", {"stage": 2}, 1, 2),
    Cell("deepspeed-zero", {"stage": 3}, 1, 2, full=True),
    Cell("deepspeed-zero", {**ALL, **RECOMPUTED}, 2, 2),
    Cell("deepspeed-tp", RECOMPUTED, 2, 2, full=True),
    Cell("deepspeed-pp", RECOMPUTED, 2, 2, full=True),
    Cell("deepspeed-tp", {}, 1, 2, full=True),
    Cell("deepspeed-pp", {}, 1, 2),
]


def _matrix() -> Iterator[Any]:
    """Yield every cell x workload x optimizer; one of each cell's is in the everyday part, the rest is `full`."""
    for number, cell in enumerate(CELLS):
        for workload in WORKLOADS:
            for optimizer in OPTIMIZERS:
                its = (("llama-tiny", "sgd"), ("mlp", "adamw"))[number % 2]
                everyday = (workload, optimizer) == its and not cell.full
                marks = [] if everyday else [pytest.mark.full]
                yield pytest.param(cell, workload, optimizer, marks=marks, id=f"{cell}-{workload}-{optimizer}")


@pytest.mark.parametrize(("cell", "workload", "optimizer"), list(_matrix()))
def test_equals_one_process(pools: Any, cell: Cell, workload: str, optimizer: str) -> None:
    shape, batch = WORKLOADS[workload]
    work = {"workload": workload, "workload_options": {**shape, **OPTIMIZERS[optimizer]}, "global_batch": batch}
    expected = _oracle(pools, work)
    assert _losses(pools, cell, work) == pytest.approx(expected, abs=TOLERANCE, rel=0)
    planted = _losses(pools, cell, work, steps=3, plant=True)
    assert planted != pytest.approx(expected[:3], abs=TOLERANCE, rel=0), "a wrong gradient must be seen"


CLIPPED = [
    Cell("deepspeed-zero", {"stage": 1}, 2, 2),
    Cell("deepspeed-zero", {"stage": 2, "offload_optimizer": True}, 2, 1),
    Cell("deepspeed-zero", ALL, 2, 2),
    Cell("deepspeed-tp", {"degree": 2}, 4, 2, full=True),
    Cell("deepspeed-pp", {"stages": 2}, 4, 2),
]
WORK = {"workload": "llama-tiny", "workload_options": {**LLAMA, **SGD}, "global_batch": 16}
WORK_CLIPPED = {**WORK, "workload_options": {**LLAMA, **SGD, "max_grad_norm": 0.1}}


@pytest.mark.parametrize("cell", [pytest.param(c, marks=[pytest.mark.full] * c.full, id=str(c)) for c in CLIPPED])
def test_a_gradient_is_clipped_by_the_norm_of_all_its_parts(pools: Any, cell: Cell) -> None:
    expected = _oracle(pools, WORK_CLIPPED)
    assert _apart(expected, _oracle(pools, WORK)) > 100 * TOLERANCE
    assert _losses(pools, cell, WORK_CLIPPED) == pytest.approx(expected, abs=TOLERANCE, rel=0)


def test_a_pipeline_at_stage_0_clips_by_a_wrong_norm_and_so_is_never_built(pools: Any) -> None:
    """What stage 1 keeps from happening. Where this fails, DeepSpeed has learnt it, and stage 0 may be offered."""
    cell = Cell("deepspeed-pp", {}, 2, 2)
    wrong = _losses(pools, cell, WORK_CLIPPED, zero_stage=0)
    assert _apart(wrong, _oracle(pools, WORK_CLIPPED)) > 100 * TOLERANCE
    assert _losses(pools, cell, WORK, zero_stage=0) == pytest.approx(_oracle(pools, WORK), abs=TOLERANCE, rel=0)


BF16 = {"precision": "bf16"}
IN_BF16 = [
    Cell("deepspeed-zero", {"stage": 2, **BF16}, 2, 2),
    Cell("deepspeed-zero", {**ALL, **BF16, **RECOMPUTED}, 2, 2, full=True),
    Cell("deepspeed-tp", BF16, 2, 2, full=True),
    Cell("deepspeed-pp", BF16, 2, 2),
]


@pytest.mark.parametrize("cell", [pytest.param(c, marks=[pytest.mark.full] * c.full, id=str(c)) for c in IN_BF16])
def test_bf16_means_what_it_means_under_every_other_strategy(pools: Any, cell: Cell) -> None:
    """The bands are those of test_bands."""
    alone = _losses_of_mesh(pools, Cell("single", BF16, 1, 1), WORK)
    assert _apart(_oracle(pools, WORK), alone) > 10 * TOLERANCE
    assert _apart(_losses(pools, cell, WORK), alone) < BF16_BETWEEN_STRATEGIES
    assert _apart(_losses(pools, cell, WORK, plant=True), alone) > BF16_BETWEEN_STRATEGIES, "a wrong gradient is seen"


WEIGHED = [Cell("deepspeed-zero", {"stage": 2}, 2, 2), Cell("deepspeed-pp", {"stages": 2}, 4, 2)]


@pytest.mark.parametrize("cell", WEIGHED, ids=str)
def test_weights_that_must_be_added_up_give_the_same(pools: Any, cell: Cell) -> None:
    got = _losses(pools, cell, WORK, weigh_each=True)
    assert got == pytest.approx(_oracle(pools, WORK), abs=TOLERANCE, rel=0)


LAYERS = MLP["layers"]
WIDTH = MLP["hidden"]
PARAMETERS = 64 * WIDTH + WIDTH + (LAYERS - 1) * (WIDTH * WIDTH + WIDTH) + WIDTH * 10 + 10
# Four pairs of column and row (the last row is the output), split in two; the biases of rows are whole.
SPLIT = PARAMETERS // 2 + (3 * WIDTH + 10) // 2


@pytest.mark.parametrize(
    ("strategy", "options", "weights", "moments"),
    [
        ("deepspeed-zero", {"stage": 1}, PARAMETERS, PARAMETERS / 2),
        ("deepspeed-zero", {"stage": 2}, PARAMETERS, PARAMETERS / 2),
        ("deepspeed-zero", ALL, PARAMETERS / 2, PARAMETERS / 2),
        ("deepspeed-tp", {}, SPLIT, SPLIT),
    ],
)
def test_a_rank_holds_its_share(pools: Any, strategy: str, options: Any, weights: float, moments: float) -> None:
    work = {"workload": "mlp", "workload_options": {**MLP, **SGD}, "global_batch": 16, "grad_accum": 1}
    held = pools(2).run("deepspeed_cases.holdings", world_size=2, strategy=strategy, strategy_options=options, **work)
    padding = 16  # DeepSpeed rounds shards up
    for rank in held:
        assert weights <= rank["weights"] <= weights + padding
        assert moments <= rank["moments"] <= moments + padding


def test_a_layer_that_deepspeed_leaves_whole_is_no_tensor_parallelism(pools: Any) -> None:
    """Its patterns are matched against names: one that matches nothing is no error to DeepSpeed."""
    (words, _) = pools(2).run("deepspeed_cases.unmatched_plan")
    assert words.startswith("DeepSpeed did not split hidden0.0.weight, hidden1.0.weight")
    assert words.endswith("output.weight over tp=2")


@pytest.mark.parametrize(
    ("strategy", "grad_accum", "words"),
    [("deepspeed-pp", 1, "at least as many micro-batches as ranks"), ("deepspeed-tp", 1, "no tensor-parallel plan")],
)
def test_the_job_refuses_what_the_plan_would_refuse(pools: Any, strategy: str, grad_accum: int, words: str) -> None:
    for message in pools(2).run("deepspeed_cases.refusal", strategy=strategy, grad_accum=grad_accum):
        assert words in message


def _losses(pools: Any, cell: Cell, work: dict[str, Any], steps: int = STEPS, **more: Any) -> list[float]:
    arguments = {"strategy": cell.strategy, "strategy_options": cell.options, "grad_accum": cell.grad_accum, **more}
    return _reduce(
        pools(cell.ranks).run("deepspeed_cases.train", world_size=cell.ranks, steps=steps, **work, **arguments)
    )


def _apart(left: list[float], right: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(left, right, strict=True))
