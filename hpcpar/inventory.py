"""What lies in a study's folder, in one pass: its runs, each with a stamp that changes when one of its files does."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from hpcpar.runs import BATCHES, StudyFolder
from hpcpar.storage import is_file

SETTLED_NS = 2_000_000_000
"""So long a file must have been left alone before its times tell versions apart: file systems count as coarsely as by
the second."""
_SPEC = "spec.json"
_RESULTS = frozenset({"record.json", "submission.jsonl"})


class Listed(NamedTuple):
    """A folder in which a run is, or was."""

    name: str
    has_spec: bool
    """False: a run wrote into it, and its spec.json is gone."""
    stamp: str
    """Of names, sizes and times of its files. Equal stamps: equal content, as far as a file system can tell."""
    newest_ns: int
    """When one of its files last changed, since the epoch; 0 where that cannot be known."""

    def settled(self, now_ns: int) -> bool:
        """Say whether its stamp can be relied upon: nothing changed just before it was taken."""
        return 0 < self.newest_ns < now_ns - SETTLED_NS


def list_runs(study: StudyFolder) -> list[Listed]:
    """List the runs of a study by name; links are not followed out of it."""
    try:
        with os.scandir(study.path) as entries:
            folders = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return []
    root = os.fspath(study.path)
    found = (_look(root, name) for name in folders if name != BATCHES and not name.startswith("."))
    return [one for one in found if one is not None]


def _look(root: str, name: str) -> Listed | None:
    facts: list[tuple[str, int, int, int, int]] = []
    has_spec = False
    try:
        with os.scandir(f"{root}/{name}") as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    f = entry.stat()
                    facts.append((entry.name, f.st_size, f.st_mtime_ns, f.st_ctime_ns, f.st_ino))
                    if entry.name == _SPEC:
                        has_spec = stat.S_ISREG(f.st_mode)
    except OSError:  # something vanished, or may not be looked at: whoever reads it will say so
        facts = []
        has_spec = is_file(Path(root, name, _SPEC))
    if not has_spec and not any(fact[0] in _RESULTS or _is_events(fact[0]) for fact in facts):
        return None
    facts.sort()
    stamp = hashlib.blake2b(ascii(facts).encode(), digest_size=16).hexdigest()
    # The inode's own time: it moves with every change, and nobody can set it.
    return Listed(name, has_spec, stamp, max([fact[3] for fact in facts], default=0))


def _is_events(name: str) -> bool:
    return name.startswith("events.") and name.endswith(".jsonl") and len(name) > len("events.jsonl")
