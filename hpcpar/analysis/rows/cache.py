"""Rows that an earlier `collect` made, kept beside the runs: derived, deletable, and trusted as far as checks go.

STUDY/.rows is a digest and what it is the digest of. A row is taken from it only where the file is whole and ours, the
code, the study and the options are those that made it, and no file of the run has changed since. Everything else is
read again; nothing about this file is ever an error.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from pathlib import Path

import msgspec
from msgspec import Struct

import hpcpar
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.rows.reducers import Options
from hpcpar.errors import StorageError
from hpcpar.inventory import Listed
from hpcpar.runs import StudyFolder
from hpcpar.storage import read_file, write_file

CACHE_FROM = 20
"""Runs of a study from which a cache is kept: fewer are read in no time."""
_NAME = ".rows"
_DIGEST = hashlib.sha256
_DIGEST_BYTES = 32


class _Entry(Struct, frozen=True, array_like=True):
    stamp: str
    row: Row


class _Content(Struct, frozen=True, kw_only=True):
    code: str
    study: str
    options: Options
    entries: dict[str, _Entry]


def known_rows(study: StudyFolder, listed: list[Listed], options: Options) -> dict[str, Row]:
    """Return the rows of the runs that have not changed, by the run's name."""
    if len(listed) < CACHE_FROM:
        return {}
    content = _read(_path(study))
    if content is None or (content.code, content.study, content.options) != (_code(), ascii(study.name), options):
        return {}
    entries = content.entries
    return {
        run.name: entry.row
        for run in listed
        if (entry := entries.get(run.name)) is not None and entry.stamp == run.stamp and run.newest_ns
    }


def keep_rows(study: StudyFolder, listed: list[Listed], rows: dict[str, Row], options: Options, now_ns: int) -> None:
    """Keep the rows of all runs that nobody was writing into; a folder that takes no file gets none.

    Args:
        study: the study's folder.
        listed: its runs, as they were before they were read.
        rows: the row of every run, by name.
        options: what they were made with.
        now_ns: when they were listed, in nanoseconds since the epoch.
    """
    if len(listed) < CACHE_FROM:
        return
    entries = {
        run.name: _Entry(run.stamp, rows[run.name]) for run in listed if run.settled(now_ns) and run.name.isascii()
    }
    content = _Content(code=_code(), study=ascii(study.name), options=options, entries=entries)
    payload = msgspec.msgpack.encode(content)
    with contextlib.suppress(StorageError):
        write_file(_path(study), _DIGEST(payload).digest() + payload)


def _path(study: StudyFolder) -> Path:
    return study.path / _NAME


def _read(path: Path) -> _Content | None:
    try:
        if path.lstat().st_uid != os.geteuid():
            return None
        content = read_file(path)
        if _DIGEST(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
            return None
        return msgspec.msgpack.decode(memoryview(content)[_DIGEST_BYTES:], type=_Content)
    except (OSError, ValueError, RecursionError):  # ValueError: msgspec's own, and a NUL in the path
        return None


@functools.cache
def _code() -> str:
    """Return a digest of the code that makes rows, so that a changed one finds no rows of the old one."""
    digest = _DIGEST(hpcpar.__version__.encode())
    package = Path(hpcpar.__file__).parent
    for path in sorted([*package.glob("*.py"), *(package / "analysis" / "rows").glob("*.py")]):
        with contextlib.suppress(OSError):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
