"""Workloads that the user has in a file: `path/to/file.py:NAME`.

The file is the user's own code. Here, on the login node, it is run in a child process only, for a bounded time, and
what comes back is data: whatever it imports or breaks, the planning process is not touched. In the job it is imported.
"""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from hpcpar.errors import InputError, Problem
from hpcpar.registry import Declaration

_REFERENCE = re.compile(r"(.+\.py):([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_PATIENCE_S = 60.0
_LAST_LINES = 5


class Description(Struct, frozen=True, kw_only=True):
    """What a file's workload says of itself, with the options that were given. Made by hpcpar.worker.describe."""

    summary: str = ""
    extras: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    """All of them, defaults included."""
    declaration: Declaration | None = None
    """None where there are problems."""
    problems: tuple[tuple[str, str, str], ...] = ()


class FileWorkload(Struct, frozen=True, kw_only=True):
    """Stands for a workload in a file wherever plans are made; `registry.Workload` without `load`."""

    path: str
    """Absolute."""
    object: str
    sha256: str
    described: Description

    @property
    def name(self) -> str:
        """The file's name and the object's: what tables call it."""
        return f"{Path(self.path).name}:{self.object}"

    @property
    def summary(self) -> str:
        """The workload's own line."""
        return self.described.summary

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras of hpcpar that it needs."""
        return self.described.extras

    def declare(self, options: Any) -> Declaration:
        """Return what it said of itself with the options that it was described with."""
        assert self.described.declaration is not None, "a workload with problems is not planned"
        return self.described.declaration

    def check(self, options: Any) -> list[Problem]:
        """Return what it found wrong with those options."""
        return [Problem(*problem) for problem in self.described.problems]


def split(reference: str) -> tuple[Path, str] | None:
    """Return file and object where a workload's name is of the form `path/to/file.py:NAME`."""
    match = _REFERENCE.fullmatch(reference)
    return (Path(match[1]).expanduser(), match[2]) if match else None


def study_name(reference: str) -> str:
    """Return a name for studies of this workload, which may become a folder."""
    found = split(reference)
    return f"{re.sub('[^A-Za-z0-9._-]', '_', found[0].stem)}.{found[1]}" if found else reference


def digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(Problem(f"workload '{path}'", f"cannot read: {error.strerror}")) from error


def describe(reference: str, options: dict[str, Any], where: str) -> FileWorkload:
    """Ask a file's workload what it is, in a child process.

    Args:
        reference: path/to/file.py:NAME.
        options: what the user has set.
        where: the study's file, or "flags"; stands in messages.

    Raises:
        InputError: the file cannot be read or run, takes too long, or has no such workload; with its own last words.
    """
    found = split(reference)
    assert found is not None, reference
    path, name = found[0].absolute(), found[1]
    given = msgspec.json.encode([f"{where}: workload {path.name}:{name}", options], order="deterministic")
    return FileWorkload(path=str(path), object=name, sha256=digest(path), described=_ask(str(path), name, given))


@functools.cache
def _ask(path: str, name: str, given: bytes) -> Description:
    label = f"workload '{path}:{name}'"
    command = [sys.executable, "-P", "-m", "hpcpar.worker.describe", path, name]
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        what = f"did not describe itself within {_PATIENCE_S:g} s"
        fix = "what is slow belongs into load, which runs in the job"
        raise InputError(Problem(label, what, fix)) from error
    try:
        return msgspec.json.decode(done.stdout, type=Description)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        words = " / ".join(line.strip() for line in last) or f"exit code {done.returncode}"
        raise InputError(Problem(label, f"cannot be described: {words}", "docs/workloads.md shows one")) from error
