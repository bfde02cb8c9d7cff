"""Rows that an earlier `collect` made, kept beside the runs: derived, deletable, and trusted as far as checks go.

STUDY/.rows is a digest and what it is the digest of; STUDY/.rows-changed is the same for the few rows that changed
since .rows was written, so that what a change costs depends on its size. A row is taken from them only where the file
is whole and ours, the code, the study and the options are those that made it, and no file of the run has changed since.
Everything else is read again; nothing about these files is ever an error.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

import hpcpar
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.rows.reducers import Options
from hpcpar.errors import StorageError
from hpcpar.inventory import Facts, Listed
from hpcpar.runs import StudyFolder
from hpcpar.storage import read_file, write_file

CACHE_FROM = 20
"""Runs of a study from which a cache is kept: fewer are read in no time."""
FEW = 0.1
"""Up to this share of the rows are kept apart when they have changed; more, and all are written again."""
_NAME = ".rows"
_NAME_CHANGED = ".rows-changed"
_DIGEST = hashlib.sha256
_DIGEST_BYTES = 32


class _Content(Struct, frozen=True, kw_only=True):
    code: str
    study: str
    options: Options
    of: str = ""
    """Of what changed: the digest of the .rows that it belongs to."""
    facts: dict[str, Facts]
    """Of the folders that the rows were made of, by the run's name; so are the rows."""
    rows: dict[str, Row]


class Kept(NamedTuple):
    """What an earlier `collect` left, by the run's name."""

    facts: Mapping[str, Facts]
    rows: Mapping[str, Row]
    digest: str = ""
    """Of .rows; "" where there is none that can be used."""
    changed: frozenset[str] = frozenset()
    """Names of those that .rows does not have."""


def kept_rows(study: StudyFolder, options: Options) -> Kept:
    """Return what was kept of a study by the same code with the same options."""
    base = _read(study, _NAME, options, "")
    if base is None:
        return Kept({}, {})
    digest, whole = base
    more = _read(study, _NAME_CHANGED, options, digest)
    if more is None:
        return Kept(whole.facts, whole.rows, digest)
    changed = more[1]
    return Kept(whole.facts | changed.facts, whole.rows | changed.rows, digest, frozenset(changed.rows))


def keep_rows(
    study: StudyFolder, kept: Kept, listed: list[Listed], rows: Mapping[str, Row], *, options: Options, now_ns: int
) -> None:
    """Keep the rows of all runs that nobody was writing into; a folder that takes no file gets none.

    Args:
        study: the study's folder.
        kept: what `kept_rows` returned.
        listed: its runs, as they were before they were read.
        rows: the row of every run, and of every one that was kept, by name.
        options: what they were made with.
        now_ns: when they were listed, in nanoseconds since the epoch.
    """
    if len(listed) < CACHE_FROM:
        return
    anew = [run for run in listed if run.facts is not kept.facts.get(run.name)]
    as_kept = kept.changed - {run.name for run in anew}
    changed = {name: kept.facts[name] for name in sorted(as_kept)} | _lasting(anew, now_ns)
    if kept.digest and len(changed) <= FEW * len(listed):
        name, facts, of = _NAME_CHANGED, changed, kept.digest
    else:
        name, facts, of = _NAME, _lasting(listed, now_ns), ""
    mine = {run: rows[run] for run in facts}
    content = _Content(code=_code(), study=ascii(study.name), options=options, of=of, facts=facts, rows=mine)
    _write(study, name, content)


def _lasting(listed: Iterable[Listed], now_ns: int) -> dict[str, Facts]:
    """Return the facts that can be relied upon, by the run's name."""
    return {
        run.name: run.facts
        for run in listed
        if run.facts is not None
        and run.facts.settled(now_ns)
        and run.name.isascii()
        and all(map(str.isascii, run.facts.names))
    }


def _read(study: StudyFolder, name: str, options: Options, of: str) -> tuple[str, _Content] | None:
    path = study.path / name
    try:
        if path.lstat().st_uid != os.geteuid():
            return None
        content = read_file(path)
        digest = _DIGEST(content[_DIGEST_BYTES:])
        if digest.digest() != content[:_DIGEST_BYTES]:
            return None
        found = msgspec.msgpack.decode(memoryview(content)[_DIGEST_BYTES:], type=_Content)
    except (OSError, ValueError, RecursionError):  # ValueError: msgspec's own, and a NUL in the path
        return None
    right = (found.code, found.study, found.options, found.of) == (_code(), ascii(study.name), options, of)
    return (digest.hexdigest(), found) if right and found.facts.keys() == found.rows.keys() else None


def _write(study: StudyFolder, name: str, content: _Content) -> None:
    payload = msgspec.msgpack.encode(content)
    with contextlib.suppress(StorageError):  # not durable: what a crash of the machine leaves of it has another digest
        write_file(study.path / name, _DIGEST(payload).digest() + payload, durable=False)


@functools.cache
def _code() -> str:
    """Return a digest of the code that makes rows, so that a changed one finds no rows of the old one."""
    digest = _DIGEST(hpcpar.__version__.encode())
    package = Path(hpcpar.__file__).parent
    for path in sorted([*package.glob("*.py"), *(package / "analysis" / "rows").glob("*.py")]):
        with contextlib.suppress(OSError):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
