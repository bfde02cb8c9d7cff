"""What the ranks of the pool do: train on data of which one sample is not a number."""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import cases
import msgspec
import torch

from hpcpar.worker.sampling import Sampler
from hpcpar.worker.workloads.mlp import Mlp

BATCH = 16


class Poisoned:
    """Samples of which one is not a number."""

    def __init__(self, samples: Any, one: int) -> None:
        self._samples, self._one = samples, one

    def __len__(self) -> int:
        return len(self._samples)

    def fetch(self, ids: Any) -> tuple[Any, Any]:
        inputs, targets = self._samples.fetch(ids)
        return inputs.masked_fill(torch.from_numpy(ids == self._one)[:, None], torch.nan), targets


class Trained(NamedTuple):
    losses: list[tuple[float, float]]
    applied: list[bool]


def train(rank: int, *, step: int, steps: int, **arguments: Any) -> Trained:
    """Train with the last sample of `step` poisoned: the last data rank alone sees it."""
    load = Mlp.load

    def poisoned(self: Mlp, options: Any, seed: int) -> Any:
        workload = load(self, options, seed)
        one = int(Sampler(len(workload.samples), BATCH, seed).ids(step)[-1])
        return msgspec.structs.replace(workload, samples=Poisoned(workload.samples, one))

    with mock.patch.object(Mlp, "load", poisoned):
        trainer = cases.build(rank, workload="mlp", global_batch=BATCH, steps=steps, **arguments)
    results = [trainer.step(trainer.batch(number)) for number in range(1, steps + 1)]
    losses = [(0.0 if r.loss_sum is None else float(r.loss_sum), r.weight) for r in results]
    return Trained(losses, [r.applied for r in results])


def stopped(rank: int, **arguments: Any) -> str:
    """Return what ends the training."""
    try:
        train(rank, **arguments)
    except Exception as error:
        return f"{getattr(error, 'cause', '')}: {error}"
    return "nothing"


def alone(rank: int, **arguments: Any) -> Trained | None:
    """Train on rank 0 only: the oracle."""
    return train(0, world_size=1, strategy="single", strategy_options={}, **arguments) if rank == 0 else None
