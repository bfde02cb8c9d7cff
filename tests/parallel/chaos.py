"""A strategy from "somebody else's package": another one on which one rank does something terrible at a chosen step."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from msgspec import Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import World, get_strategy


class ChaosOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    deed: str
    rank: int
    step: int
    under: str = "ddp"


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def blunder() -> None:
    raise ZeroDivisionError("the deed")


def hang() -> None:
    time.sleep(600)


DEEDS = {"kill": kill, "blunder": blunder, "hang": hang}


class ChaosTrainer:
    def __init__(self, inner: Any, options: ChaosOptions) -> None:
        self._inner, self._options, self._step = inner, options, 0

    def batch(self, step: int) -> Any:
        self._step = step
        return self._inner.batch(step)

    def __getattr__(self, name: str) -> Any:
        # Whatever else a trainer can do, evaluate for instance: the ranks must not differ in it.
        return getattr(self._inner, name)

    def step(self, batch: Any) -> Any:
        first_attempt = os.environ["HPCPAR_ATTEMPT"].endswith(".0")
        if self._step == self._options.step and first_attempt:
            DEEDS[self._options.deed]()
        return self._inner.step(batch)


class Chaos:
    name = "chaos"
    summary = "a strategy with an accident"
    kinds = frozenset({"neural"})
    extras = ("torch",)
    Options = ChaosOptions

    def layout(self, world: World, options: ChaosOptions) -> Mesh:
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: ChaosOptions) -> Any:
        inner = get_strategy(options.under)
        trainer = inner.build(context, workload, inner.Options())
        return ChaosTrainer(trainer, options) if context.info.rank == options.rank else trainer


STRATEGY = Chaos()
