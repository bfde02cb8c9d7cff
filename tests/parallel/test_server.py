"""The server of the parameters alone, driven by one thread in every order that the bound allows."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import simulation
import torch

from hpcpar.worker.delayed.server import Gradient, Server

SGD = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9}


def make(num_ranks: int, bound: int, patience_s: float = 0.05) -> Server:
    def sgd(parameters: Sequence[Any]) -> Any:
        return torch.optim.SGD(parameters, lr=SGD["lr"], momentum=SGD["momentum"])

    initial = [torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.nn.Parameter(torch.tensor([[0.5]]))]
    return Server(initial, sgd, num_ranks, bound, patience_s=patience_s)


def push(server: Server, rank: int, step: int, weight: float = 1.0) -> np.ndarray[Any, Any]:
    """Bring a gradient that depends on the parameters, the rank and the step; return the parameters it saw."""
    pulled = server.pull(step)
    server.push(rank, step, Gradient(pulled.version, slope(pulled.flat, rank, step), weight))
    return pulled.flat.numpy()


def slope(flat: Any, rank: int, step: int) -> Any:
    return flat * (1 + rank) + 0.1 * step


@pytest.mark.parametrize("bound", [0, 1, 3])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_any_order_that_the_bound_allows_follows_the_rule(num_ranks: int, bound: int) -> None:
    choose = random.Random(17 * num_ranks + bound)
    steps, server, weights = 12, make(num_ranks, bound), [1.0, 2.0, 5.0][:num_ranks]
    at, computing = [1] * num_ranks, {}
    while any(step <= steps for step in at):
        ready = [r for r in range(num_ranks) if at[r] <= steps and server.version >= at[r] - 1 - bound]
        rank = choose.choice(ready)  # never empty: the slowest rank may always go on
        if rank not in computing:
            computing[rank] = server.pull(at[rank])
            continue
        pulled = computing.pop(rank)
        server.push(rank, at[rank], Gradient(pulled.version, slope(pulled.flat, rank, at[rank]), weights[rank]))
        at[rank] += 1
    versions, velocity = [np.array([1.0, -2.0, 0.5])], np.zeros(3)
    for step in range(1, steps + 1):
        arrivals = server.arrivals(step)
        assert sorted(rank for rank, _ in arrivals) == list(range(num_ranks))
        assert all(0 <= late <= bound for _, late in arrivals)
        seen = {rank: slope(versions[step - 1 - late], rank, step) for rank, late in arrivals}
        mean = sum(weights[rank] * seen[rank] for rank in seen) / sum(weights)
        velocity = 0.9 * velocity + mean
        versions.append(versions[-1] - 0.1 * velocity)
    assert server.pull(steps + 1).flat.numpy() == pytest.approx(versions[-1], abs=1e-5, rel=0)
    assert sum(server.staleness_counts.values()) == steps * num_ranks
    assert bound == 0 or num_ranks == 1 or max(server.staleness_counts) > 0


def test_a_fast_rank_is_held_at_the_bound_and_the_missing_one_is_named() -> None:
    server = make(num_ranks=3, bound=2)
    first = push(server, 0, 1)
    push(server, 2, 1)
    for step in (2, 3):
        assert np.array_equal(push(server, 0, step), first), "nothing newer is there"
    with pytest.raises(RuntimeError, match=r"timed out after 0\.05 s: no gradient for step 1 from rank 1"):
        server.pull(4)
    push(server, 1, 1)
    assert server.version == 1
    assert not np.array_equal(push(server, 0, 4), first)
    assert server.arrivals(1) == [(0, 0), (2, 0), (1, 0)], "in the order of their arrival"


def test_the_order_of_arrival_does_not_change_a_bit() -> None:
    ends = []
    for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0)]:
        server = make(num_ranks=3, bound=0)
        for step in range(1, 6):
            for rank in order:
                push(server, rank, step, weight=0.1 + rank)
        ends.append(server.pull(6).flat)
    assert all(torch.equal(end, ends[0]) for end in ends)


def test_who_waits_learns_of_a_lost_rank_at_once() -> None:
    server, caught = make(num_ranks=2, bound=0, patience_s=60), []

    def wait() -> None:
        try:
            server.pull(2)
        except RuntimeError as error:
            caught.append(str(error))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    server.fail(ConnectionError("Connection closed by peer"))
    waiting.join(30)
    assert caught == ["the server of the parameters lost a rank: Connection closed by peer"]
    with pytest.raises(RuntimeError, match="lost a rank"):
        server.arrivals(1)


def test_shares_without_weight_give_no_update_and_no_nan() -> None:
    server = make(num_ranks=2, bound=0)
    before = push(server, 0, 1, weight=0.0)
    push(server, 1, 1, weight=0.0)
    assert np.array_equal(server.pull(2).flat.numpy(), before)


def test_the_simulation_knows_a_gradient_by_differences() -> None:
    """The oracle of all these tests has an oracle of its own: central differences."""
    random_numbers = np.random.default_rng(5)
    model = [random_numbers.normal(size=shape) for shape in [(4, 6), (4,), (3, 4), (3,)]]
    share = (random_numbers.normal(size=(5, 6)), np.array([0, 1, 2, 2, 1]))
    gradients = simulation.gradient(model, share)[2]
    for x, g in zip(model, gradients, strict=True):
        for place in np.ndindex(x.shape):
            kept = x[place]
            ends = []
            for h in (1e-5, -1e-5):
                x[place] = kept + h
                loss, weight, _ = simulation.gradient(model, share)
                ends.append(loss / weight)
            x[place] = kept
            assert g[place] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)
