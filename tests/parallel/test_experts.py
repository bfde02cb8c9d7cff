"""Mixtures of experts compute what one process computes, under every mesh; and ep spreads their experts.

Tolerance and planted error as in test_parity. Routing is discrete: a rounding error of 1e-7 in two scores that are
equally near would send a token elsewhere. With these seeds it does not happen: how busy the experts were is equal bit
by bit. The oracle is itself held against layers that are written as plainly as can be (experts_cases.simulate).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from test_parity import ADAMW, AGAIN, SGD, STEPS, TOLERANCE, Cell

SHAPE = {"dim": 32, "heads": 4, "kv_heads": 2, "hidden": 24, "layers": 4, "sequence": 16, "experts": 4}
# More than the published values, so that a wrong balance shows within six steps.
MOE = {**SHAPE, "balance_loss": 0.01, "balance_rate": 0.01}
OPTIMIZERS = {"sgd": SGD, "adamw": ADAMW}
CELLS = [
    Cell("single", {}, 1, 4),
    Cell("single", AGAIN, 1, 2, full=True),
    Cell("layerwise", {}, 1, 2, full=True),
    Cell("ep", {}, 2, 1, full=True),
    Cell("ep", {}, 2, 2, full=True),
    Cell("ep", AGAIN, 2, 2),
    Cell("ep", {}, 4, 2),
    Cell("ep", {"degree": 2}, 4, 1),
    Cell("hybrid", {"mesh": "dp=2,ep=2"}, 2, 1, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2"}, 4, 2),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "schedule": "gpipe"}, 4, 4, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "schedule": "looped-bfs"}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "schedule": "zbv"}, 4, 4, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "schedule": "zero-bubble"}, 4, 4, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "schedule": "dualpipev"}, 4, 4, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp_shard=2,ep=2", "schedule": "interleaved-1f1b"}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "dp_shard=2,ep=2"}, 2, 2),
    Cell("hybrid", {"mesh": "dp_shard=4,ep=2"}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "dp=2,dp_shard=2,ep=4"}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "dp=2,cp=2,ep=2"}, 4, 2, full=True),
    Cell("ddp", {}, 2, 2),
    Cell("ddp", {"static_graph": True}, 2, 2, full=True),
    Cell("fsdp", {}, 2, 2),
    Cell("fsdp", {}, 4, 2, full=True),
    Cell("fsdp", {"cpu_offload": True, **AGAIN}, 2, 2, full=True),
    Cell("pp", {}, 2, 4, full=True),
    Cell("pp", {"schedule": "zbv"}, 2, 4),
    Cell("pp", {"schedule": "zero-bubble"}, 2, 4, full=True),
    Cell("pp", {"schedule": "dualpipev"}, 2, 4, full=True),
    Cell("tp", {}, 2, 2, full=True),
    Cell("tp", {"loss_parallel": True}, 2, 2),
    Cell("hybrid", {"mesh": "dp=2,tp=2"}, 4, 2, full=True),
    Cell("cp", {}, 2, 2),
]


class Found(NamedTuple):
    losses: list[float]
    loads: list[tuple[float, float]]
    notes: list[str]


_oracles: dict[str, Found] = {}


def _marked(cells: list[Cell], everyday: str) -> list[Any]:
    """Every cell with both optimizers; the cells that are not full are everyday with one of them."""
    pairs = [(cell, name) for cell in cells for name in OPTIMIZERS]
    marks = {True: [], False: [pytest.mark.full]}
    return [
        pytest.param(cell, name, marks=marks[name == everyday and not cell.full], id=f"{cell}-{name}")
        for cell, name in pairs
    ]


def _work(optimizer: str, **more: Any) -> dict[str, Any]:
    options = {**MOE, **OPTIMIZERS[optimizer], **more}
    return {"workload": "llama-moe", "workload_options": options, "global_batch": 16}


def _run(pools: Any, cell: Cell, work: dict[str, Any], **more: Any) -> Found:
    arguments = {"strategy": cell.strategy, "strategy_options": cell.options, "grad_accum": cell.grad_accum}
    traces = pools(max(2, cell.ranks)).run(
        "experts_cases.trace", world_size=cell.ranks, **{"steps": STEPS, **work, **arguments, **more}
    )
    return _joined(traces)


def _joined(traces: list[Any]) -> Found:
    per_step = zip(*(trace.losses for trace in traces if trace is not None), strict=True)
    losses = [sum(loss for loss, _ in ranks) / sum(weight for _, weight in ranks) for ranks in per_step]
    return Found(losses, traces[0].loads, traces[0].notes)


def _oracle(pools: Any, work: dict[str, Any]) -> Found:
    key = repr(work)
    if key not in _oracles:
        _oracles[key] = _run(pools, Cell("single", {}, 1, 1), work)
    return _oracles[key]


def _agree(found: Found, expected: Found) -> None:
    assert found.losses == pytest.approx(expected.losses, abs=TOLERANCE, rel=0)
    assert found.loads == expected.loads


@pytest.mark.parametrize(("cell", "optimizer"), _marked(CELLS, "adamw"))
def test_equals_one_process(pools: Any, cell: Cell, optimizer: str) -> None:
    work = _work(optimizer)
    expected = _oracle(pools, work)
    _agree(_run(pools, cell, work), expected)
    planted = _run(pools, cell, work, steps=3, plant=True)
    assert planted.losses != pytest.approx(expected.losses[:3], abs=TOLERANCE, rel=0), "a wrong gradient must be seen"


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_one_process_computes_what_the_plainest_layers_compute(pools: Any, top_k: int) -> None:
    work = _work("sgd", top_k=top_k)
    traces = pools(2).run("experts_cases.simulate", capacity=0.0, grad_accum=1, steps=STEPS, **work)
    _agree(_joined(traces), _oracle(pools, work))


@pytest.mark.parametrize("part", ["balance_loss", "balance_rate"])
def test_both_sides_of_the_balance_are_seen(pools: Any, part: str) -> None:
    """Without them, cells that compute them wrongly would pass."""
    expected, without = _oracle(pools, _work("sgd")), _oracle(pools, _work("sgd", **{part: 0.0}))
    assert without.losses != pytest.approx(expected.losses, abs=TOLERANCE, rel=0)


CAPACITY = [
    Cell("ep", {"capacity": 1.0}, 2, 2),
    Cell("ep", {"capacity": 0.5}, 4, 1, full=True),
    Cell("ep", {"capacity": 1.25, "degree": 2, **AGAIN}, 4, 2),
    Cell("ep", {"capacity": 1.0}, 1, 1),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "capacity": 1.0}, 4, 2),
    Cell("hybrid", {"mesh": "dp_shard=2", "capacity": 1.0}, 2, 1, full=True),
]


@pytest.mark.parametrize("cell", [pytest.param(c, marks=[pytest.mark.full] * c.full, id=str(c)) for c in CAPACITY])
def test_an_expert_takes_as_many_tokens_of_a_sample_as_the_rule_says(pools: Any, cell: Cell) -> None:
    work = _work("sgd")
    arguments = {"capacity": cell.options["capacity"], "grad_accum": 1, "steps": STEPS, **work}
    expected = _joined(pools(2).run("experts_cases.simulate", **arguments))
    _agree(_run(pools, cell, work), expected)
    assert min(dropped for _, dropped in expected.loads) > 0.02
    assert expected.losses != pytest.approx(_oracle(pools, work).losses, abs=TOLERANCE, rel=0)


def test_with_room_for_all_nothing_is_dropped(pools: Any) -> None:
    """4 experts, 2 a token: with twice what it gets on average, an expert has room for every token of a sample."""
    work = _work("sgd")
    found = _run(pools, Cell("ep", {"capacity": 2.0}, 2, 2), work)
    _agree(found, _oracle(pools, work))
    assert {dropped for _, dropped in found.loads} == {0.0}


CLIPPED = [
    Cell("ep", {}, 2, 2),
    Cell("ep", {"degree": 2}, 4, 2),
    Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2"}, 4, 2),
    Cell("hybrid", {"mesh": "dp=2,dp_shard=2,ep=2"}, 4, 1),
    Cell("hybrid", {"mesh": "dp=2,dp_shard=2,ep=4"}, 4, 1, full=True),
    Cell("hybrid", {"mesh": "dp=2,cp=2,ep=2"}, 4, 2, full=True),
    Cell("tp", {}, 2, 1),
]


@pytest.mark.parametrize("cell", [pytest.param(c, marks=[pytest.mark.full] * c.full, id=str(c)) for c in CLIPPED])
def test_a_gradient_is_clipped_by_the_norm_of_all_its_parts(pools: Any, cell: Cell) -> None:
    work, clipped = _work("sgd"), _work("sgd", max_grad_norm=0.1)
    expected = _oracle(pools, clipped)
    assert expected.losses != pytest.approx(_oracle(pools, work).losses, abs=100 * TOLERANCE, rel=0)
    _agree(_run(pools, cell, clipped), expected)


@pytest.mark.parametrize(
    ("wrong", "cell"),
    [
        ("gradients of experts not divided", Cell("ep", {}, 2, 1)),
        ("the norm as if all had the same experts", Cell("ep", {}, 2, 1)),
        ("the bias by a rank's own samples", Cell("ddp", {}, 2, 1)),
        ("the trial of a pipeline counted", Cell("pp", {}, 2, 4)),
    ],
)
def test_what_trains_the_wrong_model_without_a_word(pools: Any, wrong: str, cell: Cell) -> None:
    """What the engine keeps from happening. Where this fails, it need not do so any more."""
    work = _work("sgd", max_grad_norm=0.3)
    found = _run(pools, cell, work, wrong=wrong)
    expected = _oracle(pools, work)
    wrong_losses = found.losses != pytest.approx(expected.losses, abs=2 * TOLERANCE, rel=0)
    assert wrong_losses or found.loads != expected.loads


def test_the_record_says_how_busy_the_experts_were(pools: Any) -> None:
    found = _run(pools, Cell("hybrid", {"mesh": "pp=2,dp=2,ep=2", "capacity": 1.0}, 4, 2), _work("sgd"))
    first, last = found.loads[0][0], found.loads[-1][0]
    dropped = 100 * sum(share for _, share in found.loads) / STEPS
    assert found.notes == [
        "experts: 4 layers of 4 experts, 2 a token; the busiest expert of a layer had "
        f"{first:.3g} times the mean load in the first step, {last:.3g} in the last one; "
        f"{dropped:.3g} % of what was sent to experts was dropped"
    ]


def test_a_rank_of_ep_keeps_its_part_of_the_experts_only(pools: Any) -> None:
    arguments = {**_work("sgd"), "strategy": "ep", "strategy_options": {}, "grad_accum": 1, "world_size": 2}
    dense = 2 * 256 * 32 + 32 + 4 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 4 * 32)
    experts = 4 * 3 * 4 * 24 * 32
    assert pools(2).run("experts_cases.held", **arguments) == [dense + experts // 2] * 2


def test_a_router_does_what_is_published(pools: Any) -> None:
    """Tolerance: fp32 beside float64 for gradients of size 1."""
    found = pools(2).run("experts_cases.routed", updates=300)[0]
    assert max(map(abs, found["expected"])) > 0.1
    assert found["gradient"] == pytest.approx(found["expected"], abs=1e-5)
    mean = 3 * 16 * 2 / 4
    for loads, before, after in zip(found["loads"], found["biases"], found["biases"][1:], strict=False):
        steps = [0.003 * ((mean > load) - (mean < load)) for load in loads]
        assert [b + step for b, step in zip(before, steps, strict=True)] == pytest.approx(after, abs=1e-6)
    assert max(found["loads"][0]) > 1.2 * mean
    assert max(found["loads"][-1]) <= mean + 2, "the bias brings balance"
