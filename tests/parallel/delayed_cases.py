"""What the ranks of the pool do for strategies that synchronise with delay. Called on all ranks at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import msgspec
import torch
from cases import build
from delayed_runs import LEAD
from torch.nn.functional import cross_entropy

from hpcpar import registry


def trace(
    rank: int, *, steps: int, plant: str = "", uneven: bool = False, late: str = "", **arguments: Any
) -> dict[str, Any]:
    """Train; return what the simulation needs and what it must find: this rank's batches, losses and weights.

    Args:
        plant: "gradient" or "averaging": what goes wrong on rank 1.
        uneven: samples differ in weight.
        late: a word that no other case uses: rank 1 begins when rank 0 has done `LEAD` steps.
    """
    store = torch.distributed.distributed_c10d._get_default_store()
    with contextlib.ExitStack() as stack:
        if uneven:
            stack.enter_context(_uneven_weights())
        if plant == "averaging":
            stack.enter_context(_wrong_mean())
        trainer = build(rank, steps=steps, weigh_each=uneven, **arguments)
        if plant == "gradient" and rank == 1:
            _plant_wrong_gradient(trainer)
        found: dict[str, Any] = {"initial": _weights(trainer), "shares": [], "losses": [], "weights": []}
        for step in range(1, steps + 1):
            batch = trainer.batch(step)
            share = getattr(batch, "share", batch)
            found["shares"].append((share.inputs.numpy(), share.targets.numpy()))
            if late and rank == 1 and step == 1:
                store.wait([late])
            result = trainer.step(batch)
            found["losses"].append((float(result.loss_sum), result.weight))
            found["weights"].append(_weights(trainer))
            if late and rank == 0 and step == LEAD:
                store.set(late, "go")
        if rank == 0 and hasattr(trainer, "arrivals"):
            found["arrivals"] = [[tuple(one) for one in trainer.arrivals(step)] for step in range(1, steps + 1)]
            found["final"] = _weights(trainer)
        trainer.close()
    found["notes"] = list(getattr(trainer, "notes", ()))
    return found


def _plant_wrong_gradient(trainer: Any) -> None:
    # Moved, not scaled: AdamW does not notice a gradient that is 10 % too large in every step.
    list(trainer.model.parameters())[-1].register_hook(lambda gradient: gradient.roll(1, 0))


def _weights(trainer: Any) -> list[Any]:
    return [parameter.detach().numpy().copy() for parameter in trainer.model.parameters()]


@contextlib.contextmanager
def _wrong_mean() -> Iterator[None]:
    """Plant the classic mistake: a mean in which this rank's own part counts twice."""
    from hpcpar.worker.delayed import local_sgd
    from hpcpar.worker.delayed.server import Server

    right, push = local_sgd.weighted_mean, Server.push

    def wrong(tensors: Any, weight: float, group: Any) -> None:
        right(tensors, weight * (1 + torch.distributed.get_rank()), group)

    def wrong_push(self: Any, rank: int, step: int, gradient: Any) -> None:
        push(self, rank, step, gradient._replace(weight=gradient.weight * (1 + rank)))

    with patch.object(local_sgd, "weighted_mean", wrong), patch.object(Server, "push", wrong_push):
        yield


@contextlib.contextmanager
def _uneven_weights() -> Iterator[None]:
    """Let a digit d weigh d + 1: every share then has another weight."""
    work = registry.get_workload("mlp")
    load = type(work).load

    def weigh(labels: Any) -> float:
        return float((labels + 1).sum())

    def loss(logits: Any, labels: Any) -> tuple[Any, float]:
        return ((labels + 1) * cross_entropy(logits, labels, reduction="none")).sum(), weigh(labels)

    def uneven(self: Any, options: Any, seed: int) -> Any:
        return msgspec.structs.replace(load(self, options, seed), loss=loss, weigh=weigh)

    with patch.object(type(work), "load", uneven):
        yield
