"""Pairs of short texts: a source and what is to be made of it.

The default task is real and needs no download: the names_with_underscores in the sources of Python's standard library
are to be rewritten as NamesInCamelCase. What stands where depends on all of the name, so that a model must attend.

Legend: N pairs, B pairs of a batch, S characters of a source, T of a target.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from hpcpar.errors import Problem, RunError
from hpcpar.records import Cause
from hpcpar.storage import expand_home
from hpcpar.worker.data import library, parquet, places, synthetic
from hpcpar.worker.data.arrays import Parts, split

PADDING, BEGIN, END = 0, 1, 2
"""Characters of our own; texts are ASCII, and what is not is left out."""
VOCABULARY = 128
_COLUMNS = ("source", "target")
_NAME = re.compile(rb"\b[a-z]+(?:_[a-z]+)+\b")
_PACKAGES = ("", "asyncio", "concurrent", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml")


class PairOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pairs."""

    path: str = ""
    """A file with a pair a line, source and target separated by a tab, or Parquet (a file, or a folder of them) with
    the columns `source` and `target`. "synthetic:" takes random characters, "" the names in Python's standard
    library."""
    length: Annotated[int, Meta(ge=2, le=10_000)] = 20
    """Characters of a source and of a target, their end included; longer pairs are left out."""


def check(options: PairOptions, where: str) -> list[Problem]:
    """Say whether the file is not there."""
    if synthetic.asked(options.path):
        return []
    if denied := places.unreadable(options.path, f"{where}: data.path"):
        return denied
    if found := parquet.files(options.path):
        return parquet.check(found, f"{where}: data.path", _COLUMNS)
    if not options.path or expand_home(options.path).is_file():
        return []
    return [Problem(f"{where}: data.path", f"'{options.path}' is no file", "name a file with a pair a line")]


def read(options: PairOptions) -> Parts:
    """Return the pairs in two parts: source and decoder's input in one row [N, S + T], target [N, T], S = T = length.

    The decoder's input is the target moved by one, as the model must be able to see what it has written.

    Raises:
        RunError: no pair is there, or none is short enough (a cause data).
    """
    import numpy as np

    if synthetic.asked(options.path):
        drawn = synthetic.whole_numbers(VOCABULARY, synthetic.SAMPLES, 3 * options.length)
        return split(drawn[:, : 2 * options.length], drawn[:, 2 * options.length :], synthetic.facts())
    pairs = _own(expand_home(options.path)) if options.path else _names()
    short = [pair for pair in pairs if max(map(len, pair)) < options.length]
    if len(short) < 5:
        what = f"{len(short)} of {len(pairs)} pairs are shorter than data.length {options.length}"
        raise RunError(Cause.DATA, f"{options.path or 'the standard library'}: {what}")
    inputs: np.ndarray = np.zeros((len(short), 2 * options.length), dtype=np.int64)
    targets: np.ndarray = np.zeros((len(short), options.length), dtype=np.int64)
    for row, (source, target) in enumerate(short):
        inputs[row, : len(source) + 1] = [*source, END]
        inputs[row, options.length : options.length + len(target) + 1] = [BEGIN, *target]
        targets[row, : len(target) + 1] = [*target, END]
    digest = hashlib.sha256(inputs.tobytes()).hexdigest()[:16]
    name = options.path or "python-standard-library-names"
    return split(inputs, targets, {"name": name, "sha256": digest, "synthetic": False})


def _names() -> list[tuple[bytes, bytes]]:
    text = b"\n".join(library.read(library.sources(package)) for package in _PACKAGES)
    return [
        (name, b"".join(part.capitalize() for part in name.split(b"_"))) for name in sorted(set(_NAME.findall(text)))
    ]


def _own(path: Path) -> list[tuple[bytes, bytes]]:
    halves = _from_parquet(found) if (found := parquet.files(str(path))) else _lines(path)
    return [(a, b) for a, b in halves if a and b and max(a + b) < VOCABULARY and min(a + b) > END]


def _lines(path: Path) -> list[tuple[bytes, bytes]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RunError(Cause.DATA, f"cannot read {path}: {error.strerror}") from error
    return [(a, b) for a, _, b in (line.partition(b"\t") for line in lines)]


def _from_parquet(found: list[Path]) -> list[tuple[bytes, bytes]]:
    columns = parquet.read(found, _COLUMNS)
    sources, targets = ([str(text).encode() for text in columns[name].to_pylist()] for name in _COLUMNS)
    return list(zip(sources, targets, strict=True))
