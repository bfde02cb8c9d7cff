"""Chunks of words and the class that they come from.

The default task is real and needs no download: which package of Python's standard library is a chunk of source code
from? Every fifth chunk is kept for evaluation, so that a chunk's neighbours in its file may have been trained on.

Legend: N chunks, B chunks of a batch, L words of a chunk.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from hpcpar.errors import Problem, RunError
from hpcpar.records import Cause
from hpcpar.storage import expand_home
from hpcpar.worker.data import library, parquet, places, synthetic
from hpcpar.worker.data.arrays import EVALUATION_EVERY, Parts, split

PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "xml")
"""The classes of the default task: packages that every Python 3.11 to 3.14 has, of 100 kB of sources or more."""
_MAX_CHUNKS = 400
"""Of one class: so that no class is most of the data."""
_COLUMNS = ("text", "label")
_WORD = re.compile(rb"[A-Za-z]+")


class WordOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which text."""

    path: str = ""
    """A folder with one folder of text files a class, or Parquet (a file, or a folder of them) with the columns `text`
    and `label`. "synthetic:" takes random words, "" eight packages of Python's standard library."""
    words: Annotated[int, Meta(ge=1, le=100_000)] = 32
    """Words (runs of letters, case ignored) a sample."""
    vocabulary: Annotated[int, Meta(ge=2, le=10_000_000)] = 4096
    """The most frequent words of the training samples are known; all others are one word, number 0."""
    classes: Annotated[int, Meta(ge=2)] = len(PACKAGES)
    """How many classes there are; folders and labels are numbered in sorted order."""

    def __post_init__(self) -> None:
        if not self.path and self.classes != len(PACKAGES):
            raise ValueError(f"data.classes is {len(PACKAGES)} for the default text: set it together with data.path")


def check(options: WordOptions, where: str) -> list[Problem]:
    """Say what is wrong with the user's text, as far as one look tells."""
    path, key = expand_home(options.path), f"{where}: data.path"
    if not options.path:
        return []
    if synthetic.asked(options.path):
        return []
    if denied := places.unreadable(options.path, key):
        return denied
    if found := parquet.files(options.path):
        return parquet.check(found, key, _COLUMNS)
    if not path.is_dir():
        return [Problem(key, f"'{options.path}' is no folder", "name a folder with one folder of text files a class")]
    if len(_folders(path)) != options.classes:
        what = f"'{options.path}' has {len(_folders(path))} folders, data.classes is {options.classes}"
        return [Problem(key, what, "one folder a class, or set data.classes")]
    return []


def read(options: WordOptions) -> Parts:
    """Return word numbers [N, L] and classes [N] in two parts.

    Raises:
        RunError: text is missing, or less than a chunk of a class (a cause data).
    """
    import numpy as np

    if synthetic.asked(options.path):
        rows = synthetic.whole_numbers(options.vocabulary, synthetic.SAMPLES, options.words)
        return split(rows, synthetic.whole_numbers(options.classes, synthetic.SAMPLES), synthetic.facts())
    texts = _texts(options)
    chunks: list[list[bytes]] = []
    labels: list[int] = []
    for label, (name, text) in enumerate(texts.items()):
        found = _chunks(text, options.words)
        if not found:
            raise RunError(Cause.DATA, f"class '{name}' has fewer than {options.words} words, which is one sample")
        chunks += found[:_MAX_CHUNKS] if not options.path else found
        labels += [label] * (len(chunks) - len(labels))
    numbers = _numbers(chunks, options.vocabulary)
    rows = np.array([[numbers.get(word, 0) for word in chunk] for chunk in chunks], dtype=np.int64)
    digest = hashlib.sha256(rows.tobytes()).hexdigest()[:16]
    name = options.path or "python-standard-library"
    facts = {"name": name, "classes": list(texts), "words": len(numbers) + 1, "sha256": digest, "synthetic": False}
    return split(rows, np.array(labels, dtype=np.int64), facts)


def _texts(options: WordOptions) -> dict[str, bytes]:
    if not options.path:
        return {name: library.read(library.sources(name)) for name in PACKAGES}
    path = expand_home(options.path)
    if found := parquet.files(options.path):
        return _from_parquet(found, options.classes)
    folders = _folders(path) if path.is_dir() else []
    if len(folders) != options.classes:
        what = f"{len(folders)} folders, data.classes is {options.classes}"
        raise RunError(Cause.DATA, f"data.path '{path}' has on this node {what}")
    return {folder.name: library.read(sorted(p for p in folder.rglob("*") if p.is_file())) for folder in folders}


def _from_parquet(found: list[Path], classes: int) -> dict[str, bytes]:
    """Return the texts of each label, one after the other."""
    columns = parquet.read(found, _COLUMNS)
    texts: dict[Any, list[str]] = {}
    for text, label in zip(columns["text"].to_pylist(), columns["label"].to_pylist(), strict=True):
        texts.setdefault(label, []).append(str(text))
    if len(texts) != classes:
        raise RunError(Cause.DATA, f"{found[0]} has {len(texts)} labels, data.classes is {classes}")
    return {str(label): "\n".join(texts[label]).encode() for label in sorted(texts)}


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _chunks(text: bytes, length: int) -> list[list[bytes]]:
    words = _WORD.findall(text.lower())
    return [words[begin : begin + length] for begin in range(0, len(words) - length + 1, length)]


def _numbers(chunks: list[list[bytes]], vocabulary: int) -> dict[bytes, int]:
    """Number the most frequent words from 1, equally frequent ones in sorted order; evaluation samples do not count."""
    counts: Counter[bytes] = Counter()
    for i, chunk in enumerate(chunks):
        if i % EVALUATION_EVERY != EVALUATION_EVERY - 1:
            counts.update(chunk)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ranked[: vocabulary - 1], 1)}
