"""A tokenizer as Hugging Face's tokenizers keep it: a file tokenizer.json."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from hpcpar.errors import MissingExtraError, Problem, RunError
from hpcpar.records import Cause

if TYPE_CHECKING:
    import numpy as np


class _Model(Struct):
    vocab: dict[str, int] | list[Any]


class _Added(Struct):
    id: int


class _File(Struct):
    model: _Model
    added_tokens: list[_Added] = []


def check(path: Path, vocabulary: int, where: str) -> list[Problem]:
    """Say whether there is no such tokenizer, or whether it has more tokens than the model (login node)."""
    try:
        size = _size(path)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        what = f"{path}: {getattr(error, 'strerror', None) or error}"
        return [Problem(f"{where}: data.tokenizer", what, "name a tokenizer.json; `hpcpar data fetch cl100k` has one")]
    if size > vocabulary:
        what = f"has {size:,} tokens, the model knows {vocabulary:,}"
        return [Problem(f"{where}: data.tokenizer", what, f"--set vocabulary={size} or more")]
    return []


def _size(path: Path) -> int:
    """Return one more than the largest token."""
    file = msgspec.json.decode(path.read_bytes(), type=_File)
    vocab = file.model.vocab
    largest = max(vocab.values(), default=-1) if isinstance(vocab, dict) else len(vocab) - 1
    return 1 + max([largest, *(token.id for token in file.added_tokens)])


def encode(path: Path, text: bytes, needed_by: str) -> np.ndarray:
    """Return the tokens [T] of a text.

    Raises:
        MissingExtraError: the package tokenizers is not installed.
        RunError: the file cannot be read as a tokenizer.
    """
    import numpy as np

    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtraError("tokenizers", "tokenizer", needed_by) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises no other class
        raise RunError(Cause.DATA, f"cannot read {path}: {error}") from error
    return np.array(tokenizer.encode(text.decode(errors="replace")).ids, dtype=np.int64)


def facts(path: Path) -> dict[str, Any]:
    """Describe a tokenizer for the record.

    Raises:
        RunError: there is no such file on this node.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(Cause.DATA, f"cannot read {path}: {error.strerror}") from error
    return {"tokenizer": str(path), "tokenizer_sha256": hashlib.sha256(content).hexdigest()[:16]}
