"""async does what its page says: what it recorded, replayed in NumPy, gives its losses and weights.

Tolerance as in test_localsgd. A run with a late rank has a staleness that does not depend on the machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simulation
from delayed_runs import ADAMW, CLIPPED, LEAD, MOMENTUM, PLAIN, STEPS, TOLERANCE, losses, train


def replay(traces: list[dict[str, Any]], inner: dict[str, Any]) -> float:
    """Return how far losses and weights are from those of the recorded arrivals: of each step, and at the end."""
    arrivals = traces[0]["arrivals"]
    shares = [found["shares"] for found in traces]
    expected_losses, versions = simulation.stale(traces[0]["initial"], shares, inner, arrivals)
    apart = [abs(a - b) for a, b in zip(losses(traces), expected_losses, strict=True)]
    for step, brought in enumerate(arrivals, start=1):
        for rank, late in brought:
            apart.append(far(traces[rank]["weights"][step - 1], versions[step - 1 - late]))
    return max(*apart, far(traces[0]["final"], versions[-1]))


def far(left: list[Any], right: list[Any]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("ranks", "inner", "bound"),
    [(2, MOMENTUM, 2), (2, ADAMW, 3), (4, MOMENTUM, 2)],
    ids=["momentum", "adamw", "four-ranks"],
)
def test_what_was_recorded_is_what_was_computed(pools: Any, ranks: int, inner: Any, bound: int) -> None:
    def run(plant: str = "") -> list[dict[str, Any]]:
        word = f"late-{ranks}-{inner['optimizer']}-{plant}"
        return train(pools, ranks, "async", {"staleness_bound": bound}, inner, late=word, plant=plant)

    traces = run()
    arrivals = traces[0]["arrivals"]
    assert all(sorted(rank for rank, _ in brought) == list(range(ranks)) for brought in arrivals)
    assert all(0 <= late <= bound for brought in arrivals for _, late in brought)
    own = [dict(brought)[0] for brought in arrivals]
    assert own[:LEAD] == [0, 1, 2], "rank 0 did its first steps with the initial weights: nobody else had begun"
    for brought in arrivals[:LEAD]:
        ranks_in_order = [rank for rank, _ in brought]
        assert ranks_in_order.index(0) < ranks_in_order.index(1), "the late rank came later"
    assert replay(traces, inner) < TOLERANCE
    for plant in ("gradient", "averaging"):
        assert replay(run(plant), inner) > 10 * TOLERANCE, f"a wrong {plant} must be seen"


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("inner", [PLAIN, MOMENTUM, CLIPPED, ADAMW], ids=["sgd", "momentum", "clipped", "adamw"])
def test_bound_0_is_ddp(pools: Any, inner: dict[str, Any], uneven: bool) -> None:
    ddp = train(pools, 2, "ddp", {}, inner, uneven=uneven)
    traces = train(pools, 2, "async", {"staleness_bound": 0}, inner, uneven=uneven)
    assert losses(traces) == pytest.approx(losses(ddp), abs=TOLERANCE, rel=0)
    for one, other in zip(traces, ddp, strict=True):
        # A rank of async holds after its step what the step began with.
        for step in range(1, STEPS):
            assert far(one["weights"][step], other["weights"][step - 1]) < TOLERANCE
    assert far(traces[0]["final"], ddp[0]["weights"][-1]) < TOLERANCE
    assert {late for brought in traces[0]["arrivals"] for _, late in brought} == {0}


def test_bound_0_gives_the_same_bits_whoever_comes_first(pools: Any) -> None:
    runs = [train(pools, 4, "async", {"staleness_bound": 0}, MOMENTUM) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert one["losses"] == other["losses"]
        assert all(far(a, b) == 0 for a, b in zip(one["weights"], other["weights"], strict=True))


def test_one_rank_is_single_bit_by_bit(pools: Any) -> None:
    work = {"workload": "mlp", "workload_options": {"layers": 2, "hidden": 12}, "global_batch": 16, "grad_accum": 2}
    expected = pools(2).run("single", **work, steps=STEPS)[0]
    got = pools(2).run("alone", **work, strategy="async", strategy_options={}, steps=STEPS)[0]
    assert got == expected


def test_the_record_says_who_worked_and_how_stale_gradients_were(pools: Any) -> None:
    traces = train(pools, 2, "async", {"staleness_bound": 0}, MOMENTUM)
    stale = f"staleness of {2 * STEPS} gradients: mean 0, largest 0"
    assert traces[0]["notes"] == [
        f"async: 2 ranks worked, rank 0 also served the parameters; {stale}; "
        "all ranks meet at the end of a window of records"
    ]
    assert traces[1]["notes"] == []
