"""What lies in a study's folder, in one pass: its runs, each with facts that change when one of its files does."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from hpcpar.runs import BATCHES, StudyFolder

SETTLED_NS = 2_000_000_000
"""So long a file must have been left alone before its times tell versions apart: file systems count as coarsely as by
the second."""
_SPEC = "spec.json"
_RESULTS = frozenset({"record.json", "submission.jsonl"})


class Facts(Struct, frozen=True, array_like=True, gc=False):
    """What a file system says of a run's folder. Equal facts: equal content, as far as it can tell.

    Times are those of inodes ("ctime"): they move with every change of content, and nobody can set them.
    """

    names: tuple[str, ...]
    """Of the files."""
    numbers: tuple[int, ...]
    """Inode and time of the folder, in ns; then inode, size and time of each file."""

    def settled(self, now_ns: int) -> bool:
        """Say whether they can be relied upon: nothing changed just before they were taken."""
        return max(self.numbers[1], *self.numbers[4::3]) < now_ns - SETTLED_NS


class Listed(NamedTuple):
    """A folder in which a run is, or was."""

    name: str
    facts: Facts | None
    """None where they cannot be known."""


def list_runs(study: StudyFolder, before: Mapping[str, Facts] | None = None) -> list[Listed]:
    """List the runs of a study by name; links are not followed out of it.

    Args:
        study: the study.
        before: what was found another time, by the run's name. Where it still holds, the same object comes back.
    """
    before = before or {}
    try:
        with os.scandir(study.path) as entries:
            folders = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return []
    root = os.fspath(study.path)
    still = _holding(root, [(name, before[name]) for name in folders if name in before])
    found = []
    for name in folders:
        if name in still:
            found.append(still[name])
        elif name != BATCHES and not name.startswith(".") and (seen := _look(root, name)) is not None:
            found.append(seen)
    return found


def _holding(root: str, known: list[tuple[str, Facts]]) -> dict[str, Listed]:
    """Return the folders whose facts still hold, by name."""
    try:
        study = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return {}
    try:
        return {name: Listed(name, facts) for name, facts in known if _still(study, name, facts)}
    finally:
        os.close(study)


def _still(study: int, run: str, known: Facts) -> bool:
    """Say whether these facts still hold; the folder's own time tells that no name came or went.

    Names are looked up from the study's folder (a descriptor): the way to it is not walked again for every file.
    """
    stat_at = os.stat
    try:
        folder = stat_at(run, dir_fd=study)
        numbers = [folder.st_ino, folder.st_ctime_ns]
        for name in known.names:
            file = stat_at(f"{run}/{name}", dir_fd=study)
            numbers += (file.st_ino, file.st_size, file.st_ctime_ns)
    except OSError:
        return False
    return tuple(numbers) == known.numbers


def _look(root: str, name: str) -> Listed | None:
    names: list[str] = []
    has_spec = False
    try:
        folder = os.stat(f"{root}/{name}")  # noqa: PTH116
        numbers = [folder.st_ino, folder.st_ctime_ns]
        with os.scandir(f"{root}/{name}") as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    f = entry.stat()
                    names.append(entry.name)
                    numbers += (f.st_ino, f.st_size, f.st_ctime_ns)
                    if entry.name == _SPEC:
                        has_spec = stat.S_ISREG(f.st_mode)
    except OSError:  # something vanished, or may not be looked at: whoever reads it will say so
        return Listed(name, None) if os.path.isfile(f"{root}/{name}/{_SPEC}") else None  # noqa: PTH113
    if not has_spec and not any(one in _RESULTS or _is_events(one) for one in names):
        return None
    return Listed(name, Facts(tuple(names), tuple(numbers)))


def _is_events(name: str) -> bool:
    return name.startswith("events.") and name.endswith(".jsonl") and len(name) > len("events.jsonl")
