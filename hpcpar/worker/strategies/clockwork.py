"""clockwork: every rank sleeps through its share of the workload of the same name."""

from __future__ import annotations

import time
from typing import Annotated, Any

from msgspec import Meta, Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import StepResult, Trainer, World
from hpcpar.worker.workloads.clockwork import scatter


class ClockworkStrategyOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Known differences between one series and another."""

    factor: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """All times are multiplied by it."""
    noise: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """More scatter from run to run than the workload has, as a standard deviation of logarithms."""


class ClockworkStrategy:
    """dp_replicate takes all ranks, as with ddp."""

    name = "clockwork"
    summary = "ranks that sleep through the workload clockwork, with a known difference"
    kinds = frozenset({"clockwork"})
    extras = ("torch",)
    Options = ClockworkStrategyOptions

    def layout(self, world: World, options: ClockworkStrategyOptions) -> Mesh:
        """Replicate over all ranks."""
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: ClockworkStrategyOptions) -> Trainer:
        """Build the trainer."""
        return ClockworkTrainer(context, workload, options)


class ClockworkTrainer:
    """Sleeps. All ranks sleep equally long: the noise comes from the key of the run, which they share."""

    def __init__(self, context: Any, workload: Any, options: ClockworkStrategyOptions) -> None:
        identity, own = context.identity, workload.options
        self._key, self._jitter = identity.key(), own.jitter
        exact_s = workload.step_s(identity.world_size, identity.global_batch)
        run = scatter(f"{self._key} run", own.noise) * scatter(f"{self._key} strategy", options.noise)
        self._step_s = exact_s * options.factor * run
        self._weight = identity.global_batch / identity.world_size

    def batch(self, step: int) -> float:
        """Return how long this step is to take, in seconds."""
        return self._step_s * scatter(f"{self._key} {step}", self._jitter) if self._jitter else self._step_s

    def step(self, batch: float) -> StepResult:
        """Sleep until the time is over; a sleep that ends early by a tick is taken up again."""
        ends = time.perf_counter() + batch
        while (left := ends - time.perf_counter()) > 0:
            time.sleep(left)
        return StepResult(self._weight, self._weight, True)

    def close(self) -> None:
        """Give nothing back."""


STRATEGY = ClockworkStrategy()
