"""The training loop: fetch, step, and a window now and then.

**What a kill may lose.** Steps are written when their window ends. The first window has one step; the next is at most
twice as long, and is chosen to last about 2.5 seconds (never more than 1024 steps). So a kill loses the steps of the
open window: never more than have been recorded already plus one, never more than 1024, and at most five seconds of work
as long as steps do not become more than twice as slow from one window to the next. A longer step is its own window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hpcpar.records import Step
from hpcpar.registry import StepResult, Trainer
from hpcpar.worker.measure import window
from hpcpar.worker.measure.clock import Clock

Sink = Callable[[Sequence[Step]], None]


class Losses(NamedTuple):
    """The loss at both ends of a training, on rank 0."""

    first: float | None
    last: float | None


def train(trainer: Trainer, steps: int, clock: Clock, exchange: window.Exchange, sink: Sink) -> Losses:
    """Do `steps` updates; on rank 0 hand the records of every finished window to `sink`.

    Nothing that happens between two steps (exchange, writing) is part of any step's time.
    """
    first: float | None = None
    last: float | None = None
    complete = getattr(trainer, "complete", None)
    done, size = 0, 1
    while done < steps:
        size = min(size, steps - done)
        begun = time.perf_counter()
        table_KC = _window(trainer, range(done + 1, done + size + 1), clock)
        exchanged = exchange(table_KC, window.next_size(size, time.perf_counter() - begun))
        if exchanged.table_WKC is not None:
            records = window.to_records(exchanged.table_WKC, done + 1)
            records = complete(records) if complete is not None else records
            sink(records)
            first = records[0].loss if done == 0 else first
            last = records[-1].loss
        done += size
        size = exchanged.next_size
    return Losses(first, last)


def _window(trainer: Trainer, steps: range, clock: Clock) -> Any:
    waits_s: list[float] = []
    results: list[StepResult] = []
    for step in steps:
        asked = time.perf_counter()
        batch = trainer.batch(step)
        waits_s.append(time.perf_counter() - asked)
        clock.begin()
        results.append(trainer.step(batch))
        clock.end()
    return window.table(clock.read(), waits_s, window.losses_of(results), results)
