"""Remove what is only in the way: never a record, a step, an event, and nothing of a run that is under way.

By itself it removes what a killed process left half-written and what only a living run needs. Checkpoints and logs of
runs that are done go when they are named. Links are not followed, and folders that hpcpar did not make are not entered.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hpcpar.control.reconcile import reconcile
from hpcpar.errors import SchedulerError, StorageError
from hpcpar.outcome import decide
from hpcpar.runs import RunFolder, StudyFolder

_HALF_WRITTEN = re.compile(r"\.(?:spec\.json|record\.json|rendezvous\..+\.json|stopped\..+)\.\d+\.\d+", re.ASCII)
"""storage.write_file's temporary names."""
_OF_THE_LIVING = re.compile(r"(?:rendezvous\..+\.json|stopped\..+)", re.ASCII)
_WRITING = re.compile(r"writing-\d{10}\..+", re.ASCII)
_CHECKPOINT = re.compile(r"step-\d{10}|aside-\d{10}\..+", re.ASCII)
_LOG = re.compile(r".+\.log")


class Wanted(NamedTuple):
    """What the user asked for beside the leftovers."""

    checkpoints: bool = False
    logs: bool = False


class Leftover(NamedTuple):
    """A file or folder that may go, and how much it holds."""

    path: Path
    num_bytes: int


def find(runs: Iterable[RunFolder], wanted: Wanted) -> tuple[list[Leftover], list[str]]:
    """List what may go, and what stood in the way of knowing more.

    Raises:
        SchedulerError: the scheduler could not be asked, so that nobody knows what is under way.
    """
    runs = list(runs)
    knowledge = reconcile({run.path.parent: StudyFolder(run.path.parent) for run in runs}.values())
    if knowledge.unasked:
        raise SchedulerError("squeue", f"{knowledge.unasked}; nothing is removed while nobody knows what runs")
    found: list[Leftover] = []
    for run in runs:
        state = decide(run, knowledge.live.get(run.path)).state
        if state in ("done", "failed", "planned"):
            found += [Leftover(path, _size(path)) for path in _of_run(run, wanted, done=state == "done")]
    return found, knowledge.trouble


def remove(leftovers: Iterable[Leftover]) -> None:
    """Remove them.

    Raises:
        StorageError: one cannot be removed; those before it are gone.
    """
    for path, _ in leftovers:
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(path, error) from error


def _of_run(run: RunFolder, wanted: Wanted, *, done: bool) -> Iterator[Path]:
    yield from _matching(run.path, _HALF_WRITTEN, folders=False)
    yield from _matching(run.path, _OF_THE_LIVING, folders=False)
    yield from _matching(run.checkpoints, _WRITING, folders=True)
    if done and wanted.checkpoints:
        yield from _matching(run.checkpoints, _CHECKPOINT, folders=True)
    if done and wanted.logs:
        yield from _matching(run.logs, _LOG, folders=False)


def _matching(folder: Path, pattern: re.Pattern[str], *, folders: bool) -> Iterator[Path]:
    if folder.is_symlink():
        return
    try:
        with os.scandir(folder) as entries:
            kept = [e for e in entries if not e.is_symlink() and e.is_dir(follow_symlinks=False) == folders]
    except OSError:
        return
    yield from sorted(Path(entry.path) for entry in kept if pattern.fullmatch(entry.name))


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    inside = [Path(base) / name for base, _, names in os.walk(path) for name in names]
    return sum(one.lstat().st_size for one in inside)
