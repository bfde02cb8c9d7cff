"""Write what a submission needs, before the scheduler is asked: run folders, batches, the user's code, the request.

One submit of a study at a time; what cannot be written whole is taken back.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcpar import snapshot
from hpcpar.control.again import requests
from hpcpar.errors import HpcparError, InputError, Problem, StorageError
from hpcpar.runs import BATCHES, BatchLine, StudyFolder
from hpcpar.storage import is_folder, make_folder, sync

if TYPE_CHECKING:
    from hpcpar.control.plan import PlannedRun
    from hpcpar.control.submit import Prepared, PreparedBatch

_LOCK = ".lock"
_FEW = 32
"""Runs of a submission whose files are waited for one by one; of more, all at once."""


@contextlib.contextmanager
def only_submit_of(study: StudyFolder) -> Iterator[None]:
    """Keep two submits of one study apart; where the file system has no locks, the batch folders still do."""
    make_folder(study.path / BATCHES)
    lock_path = study.path / BATCHES / _LOCK
    try:
        lock = lock_path.open("ab")
    except OSError as error:
        raise StorageError(lock_path, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = "another `hpcpar submit` of this study is at work"
            raise InputError(Problem(str(study.path), what, "wait for it, then look at `hpcpar status`")) from error
        except OSError:  # no locks on this file system
            pass
        yield


def refuse_overtaken(prepared: Prepared) -> None:
    """Two that prepared at the same time would both send what neither saw under way."""
    if len(prepared.study.batches()) != prepared.ordinal:
        what = "other runs of this study were submitted in this moment"
        raise InputError(Problem(str(prepared.study.path), what, "look at `hpcpar status`, then try again"))


def refuse_in_flight(prepared: Prepared) -> None:
    """Refuse to send runs of which nobody knows yet whether the scheduler has them.

    Raises:
        InputError: a submission of them was interrupted, and may still arrive.
    """
    wanted = {run.spec.run_name for batch in prepared.batches for run in batch.runs}
    for folder in prepared.study.batches():
        batch = folder.read()
        answered = batch.accepted is not None or batch.refused is not None
        if batch.intent is not None and not answered and wanted & set(batch.runs.values()):
            age = time.time() - batch.intent.time
            what = f"a submission of these runs was interrupted {age:.0f} s ago and may still reach the scheduler"
            raise InputError(Problem(str(folder.path), what, "run `hpcpar status` in a minute: it finds out"))


@contextlib.contextmanager
def taken_back_on_failure(study: StudyFolder) -> Iterator[list[Path]]:
    """Yield a list for what is made; on failure that is removed, and the folders around it that were not there."""
    batches = study.path / BATCHES
    missing = [path for path in (batches, *batches.parents) if not is_folder(path)]
    made: list[Path] = []
    try:
        yield made
    except HpcparError:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.unlink()
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def write_all(prepared: Prepared, made: list[Path]) -> None:
    """Write everything, and note in `made` what is new.

    Raises:
        InputError: another submit has made one of the batches.
        StorageError: it cannot be written.
    """
    if not prepared.study.batches():
        made += [prepared.study.path / BATCHES / _LOCK, prepared.study.requests_path]
    if prepared.snapshot is not None:
        place = prepared.snapshot.folder(prepared.study.path)
        made += [path for path in (place, place.parent) if not path.exists()]
        snapshot.store(prepared.snapshot, prepared.study.path)
    asked = requests.note(prepared.study, prepared.request)
    why = {name: wish.why for name, wish in (prepared.request.only or {}).items()}
    # Of a few files each is waited for by itself; of more, all at once: nothing is asked of the scheduler before.
    few = sum(len(batch.runs) for batch in prepared.batches) + len(prepared.held) < _FEW
    for batch in prepared.batches:
        _write_specs(prepared.study, batch.runs, made, durable=few)
        try:
            line = BatchLine(kind="asked", asked=asked, excluded=batch.resources.exclude)
            names, tasks = [run.spec.run_name for run in batch.runs], _tasks(batch)
            workers = batch.worker_script.text if batch.worker_script else ""
            batch.folder.create(batch.script.text, names, line, why, worker_script=workers, tasks=tasks, durable=few)
        except StorageError:
            made.append(batch.folder.path)
            raise
        made.append(batch.folder.path)  # only now: where another submit made it first, it is not ours to remove
    _write_specs(prepared.study, prepared.held, made, durable=few)
    if not few:
        sync(prepared.study.path)


def _tasks(batch: PreparedBatch) -> list[int] | None:
    """Return the array task of every run; None where each has its own."""
    if len(batch.jobs) == len(batch.runs):
        return None
    return [task for task, job in enumerate(batch.jobs) for _ in job.runs]


def _write_specs(study: StudyFolder, runs: Sequence[PlannedRun], made: list[Path], *, durable: bool) -> None:
    there = study.names()
    for run in runs:
        name = run.spec.run_name
        folder = study.run(name)
        if name not in there:
            made.append(folder.path)
        elif folder.spec() is not None:
            continue
        # One that cannot be read was cut off: the machine crashed before it was on the disk, and nothing was sent.
        folder.write_spec(run.spec, durable=durable)
