"""The training loop: fetch, step, and a window now and then.

**What a kill may lose.** Steps are written when their window ends. The first window has one step; the next is at most
twice as long, and is chosen to last about 2.5 seconds (never more than 1024 steps). So a kill loses the steps of the
open window: never more than have been recorded already plus one, never more than 1024, and at most five seconds of work
as long as steps do not become more than twice as slow from one window to the next. A longer step is its own window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from hpcpar.errors import RunError
from hpcpar.records import Cause, Step
from hpcpar.registry import StepResult, Trainer
from hpcpar.worker.measure import window
from hpcpar.worker.measure.clock import Clock
from hpcpar.worker.watchdog import Progress

Sink = Callable[[Sequence[Step]], None]


class Losses(NamedTuple):
    """The loss at both ends of a training, on rank 0."""

    first: float | None
    last: float | None


class Checkpoints(Protocol):
    """What the loop asks of a keeper of checkpoints (worker/checkpoint/keeper.py); every rank asks the same."""

    done: int
    """Updates that were done before."""
    losses: Losses
    """Of those, on rank 0."""

    def until_due(self, done: int, steps: int) -> int:
        """Return how many more updates may be done before a checkpoint is due, or the training is over."""

    @property
    def must_stop(self) -> bool:
        """Whether a signal asks this rank to leave; rank 0's word counts."""

    def after_window(self, done: int, steps: int, losses: Losses, *, stop: bool) -> bool:
        """Save where it is time; return True when the training is to end here."""


def train(
    trainer: Trainer,
    steps: int,
    clock: Clock,
    exchange: window.Exchange,
    sink: Sink,
    *,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> Losses:
    """Do `steps` updates; on rank 0 hand the records of every finished window to `sink`.

    A watchdog sees in `progress` which step has begun when.

    With checkpoints, a window ends where one is due; those that are done already are not done again, and a signal ends
    the training at the end of a window: rank 0 then says 0 for the next one's size.

    A trainer that says `is_over` ends the training before its last step, on all ranks after the same one.

    Nothing that happens between two steps (exchange, writing) is part of any step's time.
    """
    progress = progress or Progress()
    first, last = checkpoints.losses if checkpoints is not None else (None, None)
    complete = getattr(trainer, "complete", None)
    done, size = checkpoints.done if checkpoints is not None else 0, 1
    over = False
    while done < steps and not over:
        size = min(size, steps - done if checkpoints is None else checkpoints.until_due(done, steps))
        begun = time.perf_counter()
        table_KC = _window(trainer, range(done + 1, done + size + 1), clock, progress)
        next_size = window.next_size(size, time.perf_counter() - begun)
        if checkpoints is not None and checkpoints.must_stop:
            next_size = 0
        exchanged = exchange(table_KC, next_size)
        if exchanged.table_WKC is not None:
            records = window.to_records(exchanged.table_WKC, done + 1)
            records = complete(records) if complete is not None else records
            sink(records)
            first = records[0].loss if done == 0 else first
            last = records[-1].loss
        done += len(table_KC)
        over = getattr(trainer, "is_over", False)
        size = exchanged.next_size
        if checkpoints is not None:
            with progress.between():
                stopped = checkpoints.after_window(done, steps, Losses(first, last), stop=size == 0)
            if stopped:
                break
    progress.end()
    return Losses(first, last)


def _window(trainer: Trainer, steps: range, clock: Clock, progress: Progress) -> Any:
    # After a step of milliseconds the processor's caches hold other things, and each call between two steps costs some
    # microseconds: what can be bound, looked up or computed once a window is, and nothing here is a function of ours.
    now, mark, may_end = time.perf_counter, clock.mark, hasattr(trainer, "is_over")
    asked: list[float] = []
    fetched: list[float] = []
    marks: list[Any] = []
    results: list[StepResult] = []
    progress.watched = True
    for step in steps:
        progress.step = step
        progress.since = now()
        asked.append(progress.since)
        batch = trainer.batch(step)
        fetched.append(now())
        marks.append(mark())
        try:
            results.append(trainer.step(batch))
        except RunError as error:  # the trainer does not know which step it is
            raise RunError(Cause(error.cause), f"step {step}: {error}") from error
        marks.append(mark())
        if may_end and trainer.is_over:  # type: ignore[attr-defined]
            break
    times_s = clock.seconds(marks)
    progress.longest_s = max(progress.longest_s, *times_s)
    waits_s = [end - begin for begin, end in zip(asked, fetched, strict=True)]
    return window.table(times_s, waits_s, window.losses_of(results), results)
