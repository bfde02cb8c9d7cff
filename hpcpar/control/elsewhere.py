"""Runs in another local queue: of another machine, or of another state folder on this one.

The queue of this process knows nothing of them, and its silence is no sign that they are over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from hpcpar.control import local_queue
from hpcpar.outcome import Live
from hpcpar.runs import BatchLine, RunFolder
from hpcpar.spec import Submission

STALE_S = 60.0
"""So long what another machine wrote into a shared folder may be invisible here."""
FORGOTTEN_S = 7 * 24 * 3600.0
"""A run that waits so long in a queue that cannot be looked into is given up: its machine may be gone for good."""


def queue_of(submission: Submission) -> str:
    """Return the folder of the local queue that has a run, where it is another one than this process's; else ""."""
    return submission.queue if submission.scheduler == "local" and not is_mine(submission.queue) else ""


def is_mine(queue: str) -> bool:
    """Say whether a queue is this process's; of what older versions queued, nobody knows better."""
    mine = str(local_queue.folder())
    return queue in ("", mine) or os.path.realpath(queue) == os.path.realpath(mine)


def in_words(queue: str) -> str:
    """Return whose queue it is."""
    path = Path(queue)
    return f"the local queue of {path.name} (HPCPAR_STATE={path.parent.parent})"


def states(runs: Iterable[tuple[RunFolder, Submission]]) -> dict[Path, Live]:
    """Return what runs of other queues are at, as far as files tell: the processes of those queues are not asked."""
    runs = list(runs)
    held = {queue: _jobs_in(queue) for queue in {submission.queue for _, submission in runs}}
    return {run.path: _state_of(run, submission, held[submission.queue]) for run, submission in runs}


def may_give_up(intent: BatchLine) -> bool:
    """Say whether a submission without an answer can be known not to be in its local queue."""
    return is_mine(intent.queue) or _names(intent.queue) is not None or time.time() - intent.time > FORGOTTEN_S


def _state_of(run: RunFolder, submission: Submission, held: set[str] | None) -> Live:
    attempts = [name for name in run.attempts() if name.rpartition(".")[0] == submission.job_id]
    if any(event.kind == "script_exit" for name in attempts for event in run.events(name).records):
        return Live("gone")
    silent_s = time.time() - max(submission.time, run.last_written())
    if held is None:
        over = silent_s > (_longest_s(run) if attempts else FORGOTTEN_S)
    else:
        over = submission.job_id not in held and silent_s > STALE_S
    if over:
        return Live("gone", reason=f"nothing more was heard of it; it was in {in_words(submission.queue)}")
    state = "running" if attempts else "queued"
    return Live(state, reason=f"in {in_words(submission.queue)}", queue=submission.queue)


def _jobs_in(queue: str) -> set[str] | None:
    """Return the jobs that a queue has yet to end; None where its folder cannot be seen from here."""
    if _names(queue) is None:
        return None
    return {element.job_id for element in local_queue.waiting_elements(Path(queue))}


def _names(queue: str) -> list[str] | None:
    try:
        return os.listdir(queue)
    except OSError:
        return None


def _longest_s(run: RunFolder) -> float:
    """Return how long a run that has begun may go on: its launcher ends it at its time limit."""
    spec = run.spec()
    return STALE_S + (spec.time_s if spec is not None else FORGOTTEN_S)
