"""A rank that begins no step for too long: its stacks go into the events, and the run ends with the cause `hung`.

Every rank watches itself; nothing is exchanged, as a rank that hangs would not answer. The ranks that wait for the one
that hangs come to the same end within a step's time, so each writes its stacks and then stays until the others have
too: the first to leave takes all with it.

**How long.** `[policy] hang_after` of the study. Without it, 0.45 of the run's time limit and never more than 27
minutes: nine tenths of what a rank waits inside a collective (`rendezvous.collective_timeout`), so that a hang has
stacks before it becomes a lost connection. Runs of one rank or of one step are then not watched: they may take their
whole time limit for it, and nobody waits for them.
A checkpoint between two steps may take ten times `hang_after`, but not more than that default.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

from hpcpar.records import Cause
from hpcpar.spec import RunSpec
from hpcpar.worker.journal import Journal
from hpcpar.worker.rank import RankInfo
from hpcpar.worker.rendezvous import collective_timeout

LEAVE_AFTER_S = 10.0
"""How long a rank stays after it wrote its stacks, beside the longest step that it has seen."""
BETWEEN = 10.0
"""What happens between two steps may take so many times as long as a step may, but never longer than the default."""
_SHARE = 0.9
_LOOK_S = 5.0
_STACK_CHARACTERS = 8000
_STUCK_INTERPRETER_S = 60.0
"""How much later than the watchdog the interpreter's own alarm ends a rank in which no Python thread can run."""


class Progress:
    """How far the training is. The loop writes, the watchdog reads; a step costs two assignments and one clock."""

    def __init__(self) -> None:
        self.step = 0
        """The step that has begun last."""
        self.since = time.perf_counter()
        """When."""
        self.longest_s = 0.0
        """The longest step of all finished windows."""
        self.watched = self.over = self.is_between = False

    @contextlib.contextmanager
    def between(self) -> Iterator[None]:
        """Do something between two steps that may take longer than a step: a checkpoint."""
        self.since, self.is_between = time.perf_counter(), True
        yield
        self.since, self.is_between = time.perf_counter(), False

    def end(self) -> None:
        """Note that the training is over: nobody watches any more."""
        self.watched, self.over = False, True


class Patience(NamedTuple):
    """How long a rank may begin no step, and how long what lies between two steps may take; 0: it is not watched."""

    step_s: float
    between_s: float


def patience_of(spec: RunSpec, info: RankInfo) -> Patience:
    """Return how long is too long for this rank."""
    default_s = _SHARE * collective_timeout(spec).total_seconds()
    if info.hang_after_s:
        return Patience(info.hang_after_s, max(info.hang_after_s, min(BETWEEN * info.hang_after_s, default_s)))
    if spec.identity.world_size == 1 or spec.identity.steps == 1:
        return Patience(0.0, 0.0)
    return Patience(default_s, default_s)


def watched(spec: RunSpec, info: RankInfo, journal: Journal) -> Progress:
    """Return the progress of a training that begins, watched from a thread of its own."""
    progress, patience = Progress(), patience_of(spec, info)
    if patience.step_s > 0:
        arguments = (progress, patience, journal, info)
        threading.Thread(target=_watch, args=arguments, daemon=True, name="watchdog").start()
    return progress


def _watch(progress: Progress, patience: Patience, journal: Journal, info: RankInfo) -> None:
    told = _await_hang(progress, patience)
    faulthandler.cancel_dump_traceback_later()
    if not told:
        return
    stacks, waits = _stacks()
    journal.last_words(Cause.HUNG, told, stacks, echo=waits)
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)  # into the rank's log, whole
    if info.world_size > 1:
        time.sleep(LEAVE_AFTER_S + min(progress.longest_s, patience.step_s))
    os._exit(1)


def _await_hang(progress: Progress, patience: Patience) -> str:
    """Return what hangs, in words; "" when the training is over."""
    while not progress.over:
        step, between = progress.step, progress.is_between
        allowed_s = patience.between_s if between else patience.step_s
        left_s = progress.since + allowed_s - time.perf_counter()
        if not progress.watched:
            left_s = patience.step_s / 4
        elif left_s <= 0:
            what = f"what follows step {step}" if between else f"step {step}"
            return f"{what} did not end within {allowed_s:g} s"
        else:
            # Where C code keeps the interpreter's lock no thread of Python runs, this one neither; this alarm does.
            faulthandler.dump_traceback_later(allowed_s + _STUCK_INTERPRETER_S, exit=True)
        time.sleep(max(0.05, min(_LOOK_S, left_s)))
    return ""


def _stacks() -> tuple[str, bool]:
    """Return the stacks of all threads, the main one last, and whether that one is inside torch.

    There it may be waiting for another rank: such a rank is an echo of the one that hangs elsewhere.
    """
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    parts = []
    for ident, frame in sorted(frames.items(), key=lambda item: item[0] == main):
        if ident != threading.get_ident():
            title = "main thread" if ident == main else f"thread {names.get(ident, ident)}"
            parts.append(f"{title}:\n" + "".join(traceback.format_stack(frame)))
    inner = frames[main].f_code.co_filename if main in frames else ""
    return "\n".join(parts)[-_STACK_CHARACTERS:], "torch" in PurePath(inner).parts
