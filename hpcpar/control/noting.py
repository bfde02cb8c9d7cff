"""Write down what became of a submission: in the batch that was sent, and in each of its runs.

All of it is safe to repeat. What cannot be written is said, and stops nothing else.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hpcpar.control import local_queue
from hpcpar.errors import StorageError
from hpcpar.outcome import Live
from hpcpar.runs import Batch, BatchFolder, BatchLine, RunFolder
from hpcpar.spec import Submission
from hpcpar.storage import is_folder

IN_FLIGHT_S = 60.0
"""So long a submission without an answer may still be on its way to the scheduler."""


class Knowledge(NamedTuple):
    """What was learnt: the present state of runs that have not ended, and what stood in the way of learning more."""

    live: dict[Path, Live]
    trouble: list[str]
    unasked: str = ""
    """Why the scheduler's queue is unknown; "" where it was asked, or needed not be."""


def note_submission(folder: BatchFolder, batch: Batch) -> None:
    """Write the submission line of every run of an accepted batch that has none yet.

    Raises:
        StorageError: one of them cannot be written.
    """
    for run, line in _not_noted(folder, batch):
        run.add_submission(line)


def note_what_can_be(folder: BatchFolder, batch: Batch, known: Knowledge) -> None:
    """As `note_submission`, but a run whose folder takes nothing keeps no other from being noted, or looked at."""
    failed: list[str] = []
    reason = ""
    for run, line in _not_noted(folder, batch):
        try:
            run.add_submission(line)
        except StorageError as error:
            failed.append(run.path.name)
            reason = error.problems[0].what
            if not run.attempts():  # nothing in its folder says that it was sent, and it must not be sent twice
                known.live[run.path] = Live("queued", reason="it was submitted, which cannot be noted in its folder")
    if failed:
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        known.trouble.append(f"the submission of {', '.join(failed[:5])}{more} cannot be noted: {reason}")


def _not_noted(folder: BatchFolder, batch: Batch) -> Iterator[tuple[RunFolder, Submission]]:
    accepted = batch.accepted
    assert accepted is not None
    num_tasks = batch.num_tasks
    for index, name in batch.runs.items():
        run = folder.study.run(name)
        if any(line.batch == folder.key for line in run.submissions()) or not is_folder(run.path):
            continue
        if accepted.scheduler == "local":
            job_id = local_queue.job_id_of(folder.key, index, len(batch.runs))
        else:
            job_id = f"{accepted.job_id}_{batch.task(index)}" if num_tasks > 1 else accepted.job_id
        line = Submission(
            time=accepted.time,
            batch=folder.key,
            scheduler=accepted.scheduler,
            job_id=job_id,
            script_sha256=accepted.script_sha256,
            gate=accepted.gate,
            code_sha256=accepted.code_sha256,
            reason=batch.why.get(index, ""),
            excluded=batch.excluded,
            shared=index in batch.shared,
            queue=accepted.queue,
        )
        yield run, line


def intent_of(folder: BatchFolder) -> BatchLine:
    """Return what a batch says of its submission, which has begun."""
    intent = folder.read().intent
    assert intent is not None
    return intent


def adopt(folder: BatchFolder, job_id: str, known: Knowledge) -> None:
    """Note that the scheduler has a batch whose answer was lost."""
    intent = intent_of(folder)
    accepted = BatchLine(
        kind="accepted",
        time=intent.time,
        scheduler=intent.scheduler,
        job_id=job_id,
        script_sha256=intent.script_sha256,
        gate=intent.gate,
        code_sha256=intent.code_sha256,
        queue=intent.queue,
    )
    _journal(folder, accepted, known)
    note_what_can_be(folder, folder.read()._replace(accepted=accepted), known)


def _journal(folder: BatchFolder, line: BatchLine, known: Knowledge) -> None:
    """Add a line to a batch's journal; where it cannot be written, the next look finds the same out again."""
    try:
        folder.journal(line)
    except StorageError as error:
        what = f"job {line.job_id}" if line.job_id else line.error
        name = f"{folder.study.name}/{folder.key}"
        known.trouble.append(f"what became of batch {name} ({what}) cannot be noted: {error.problems[0].what}")


def give_up(folder: BatchFolder, known: Knowledge) -> None:
    """Say of a submission that it never reached the scheduler, once it cannot be on its way any more."""
    intent = intent_of(folder)
    here = intent.host == socket.gethostname()
    alive = here and Path(f"/proc/{intent.pid}").exists() and intent.pid != os.getpid()
    known_dead = intent.scheduler == "local" and (here or not intent.host)
    if not alive and (known_dead or time.time() - intent.time > IN_FLIGHT_S):
        _journal(folder, BatchLine(kind="refused", time=time.time(), error="it never reached the scheduler"), known)
