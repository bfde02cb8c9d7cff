"""localsgd does what its page says: step by step beside NumPy, and with period 1 beside ddp.

Tolerance 2e-5 for weights of size 1: fp32 against float64 over 9 steps, each with rounding of 6e-8 times the number of
operations; the planted mistakes move weights by more than 1e-3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simulation
from delayed_runs import ADAMW, CLIPPED, MOMENTUM, PLAIN, STEPS, TOLERANCE, distance, losses, train

RULES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "every-3": ({"period": 3}, MOMENTUM, {"period": 3}),
    "every-4-not-a-divisor": ({"period": 4}, MOMENTUM, {"period": 4}),
    "state-kept": ({"period": 3, "optimizer_state": "keep"}, MOMENTUM, {"period": 3, "average_state": False}),
    "clipped": ({"period": 3, "warmup": 2}, CLIPPED, {"period": 3, "warmup": 2}),
    "adamw": ({"period": 2}, ADAMW, {"period": 2}),
    "post-local": ({"period": 3, "warmup": 4}, MOMENTUM, {"period": 3, "warmup": 4}),
    "diloco": (
        {"period": 3, "outer": "nesterov"},
        ADAMW,
        {"period": 3, "average_state": False, "outer": (0.7, 0.9)},
    ),
    "diloco-after-warmup": (
        {"period": 2, "outer": "nesterov", "warmup": 3, "outer_lr": 0.5, "outer_momentum": 0.6},
        MOMENTUM,
        {"period": 2, "warmup": 3, "average_state": False, "outer": (0.5, 0.6)},
    ),
    "outer-without-momentum": (
        {"period": 3, "outer": "nesterov", "outer_lr": 1.0, "outer_momentum": 0.0},
        MOMENTUM,
        {"period": 3, "average_state": False},
    ),
}


CELLS = [*((rule, 2) for rule in RULES), ("every-4-not-a-divisor", 4), ("diloco-after-warmup", 4)]


@pytest.mark.parametrize(("rule", "ranks"), CELLS)
def test_every_step_is_the_documented_rule(pools: Any, rule: str, ranks: int) -> None:
    options, inner, rules = RULES[rule]
    traces = train(pools, ranks, "localsgd", options, inner)
    shares = [found["shares"] for found in traces]
    expected_losses, expected = simulation.local_sgd(traces[0]["initial"], shares, inner, **rules)
    assert losses(traces) == pytest.approx(expected_losses, abs=TOLERANCE, rel=0)
    assert distance(traces, expected) < TOLERANCE
    for plant in ("gradient", "averaging"):
        planted = train(pools, ranks, "localsgd", options, inner, plant=plant)
        assert distance(planted, expected) > 10 * TOLERANCE, f"a wrong {plant} must be seen"


def far_from_ddp(pools: Any, ranks: int, options: Any, inner: dict[str, Any], uneven: bool) -> float:
    ddp = train(pools, ranks, "ddp", {}, inner, uneven=uneven)
    expected = [[found["weights"][step] for found in ddp] for step in range(STEPS)]
    traces = train(pools, ranks, "localsgd", options, inner, uneven=uneven)
    losses_apart = max(abs(a - b) for a, b in zip(losses(traces), losses(ddp), strict=True))
    return max(losses_apart, distance(traces, expected))


@pytest.mark.parametrize(
    ("ranks", "inner", "options", "uneven"),
    [
        (2, PLAIN, {"period": 1}, False),
        (2, PLAIN, {"period": 1, "optimizer_state": "keep"}, True),
        (2, MOMENTUM, {"period": 1}, True),
        (4, MOMENTUM, {"period": 1}, True),
        (2, MOMENTUM, {"period": 1, "optimizer_state": "keep"}, False),
        (2, ADAMW, {"period": 5, "warmup": STEPS}, True),
        (2, PLAIN, {"period": 1, "outer": "nesterov", "outer_lr": 1.0, "outer_momentum": 0.0}, True),
    ],
    ids=["sgd", "sgd-kept", "momentum", "momentum-4", "momentum-kept", "adamw-warming-up", "outer-1"],
)
def test_this_is_ddp(pools: Any, ranks: int, inner: dict[str, Any], options: dict[str, Any], uneven: bool) -> None:
    """Updates that are linear in the gradient may be averaged before or after they are made."""
    assert far_from_ddp(pools, ranks, options, inner, uneven) < TOLERANCE


@pytest.mark.parametrize(
    ("inner", "options"),
    [(ADAMW, {"period": 1}), (MOMENTUM, {"period": 1, "optimizer_state": "keep"})],
    ids=["adamw", "momentum-kept"],
)
def test_this_is_not_ddp(pools: Any, inner: dict[str, Any], options: dict[str, Any]) -> None:
    """The limits of the identity: a root of squares; and moments that never met, where the ranks' weights differ."""
    assert far_from_ddp(pools, 2, options, inner, uneven=True) > 10 * TOLERANCE


def test_replicas_end_alike_whatever_the_period(pools: Any) -> None:
    traces = train(pools, 2, "localsgd", {"period": 100}, MOMENTUM)
    before, after = ([found["weights"][step] for found in traces] for step in (STEPS - 2, STEPS - 1))
    assert any(not np.array_equal(a, b) for a, b in zip(before[0], before[1], strict=True))
    for model in after[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(model, after[0], strict=True))


def test_the_record_says_how_replicas_meet(pools: Any) -> None:
    options = {"period": 3, "warmup": 2, "outer": "nesterov"}
    assert train(pools, 2, "localsgd", options, ADAMW)[0]["notes"] == [
        "localsgd: synchronous for 2 steps, then mean of the parameters every 3 steps and after the last one, "
        "outer Nesterov SGD with lr 0.7 and momentum 0.9"
    ]
