"""Text as tokens, cut into windows: the user's own, or the sources of Python's standard library, byte by byte.

Legend: T tokens in all, N windows, B samples of a batch, S tokens a sample.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from hpcpar.errors import Problem, RunError
from hpcpar.records import Cause
from hpcpar.storage import expand_home
from hpcpar.worker.data import parquet, places, synthetic, tokenizer
from hpcpar.worker.data.arrays import EVALUATION_EVERY, Parts

if TYPE_CHECKING:
    import numpy as np  # 0.1 s that the login node does not pay

_COLUMNS = (("input_ids",), ("text",))
STANDARD_LIBRARY_BYTES = 2_000_000
"""How much of the standard library's sources is read: enough that a short run does not see a byte twice."""


class DataOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which text."""

    path: str = ""
    """A file, or a folder whose files are read in sorted order: bytes are tokens. Or a file .npy with one axis of whole
    numbers: tokens of a tokenizer of your own. Or Parquet (a file, or a folder of them) with the column `text`, or with
    tokens in `input_ids`. "synthetic:" takes random tokens, "" the sources of Python's standard library."""
    tokenizer: str = ""
    """A file tokenizer.json, as Hugging Face's tokenizers keep it: text is read as its tokens. "" takes bytes."""
    evaluation: Annotated[int, Meta(ge=0)] = 256
    """At most so many samples are evaluated on, spread evenly over those that are never trained on; 0: none."""


class Tokens(NamedTuple):
    """How a model reads text."""

    encode: Callable[[bytes], np.ndarray] | None = None
    """Text -> tokens [T]; None: bytes are tokens."""
    facts: Mapping[str, Any] = MappingProxyType({})
    """What the record says of the data besides."""


BYTES = Tokens()


def check(options: DataOptions, where: str, vocabulary: int) -> list[Problem]:
    """Say whether the text or its tokenizer is not there, or has more tokens than the model."""
    if not options.tokenizer:
        return _check_text(options, where)
    if synthetic.asked(options.path) or expand_home(options.path).suffix == ".npy":
        what = f"there is nothing for it to read: {options.path} has tokens, and no text"
        return [Problem(f"{where}: data.tokenizer", what, "leave it out")]
    return _check_text(options, where) + tokenizer.check(expand_home(options.tokenizer), vocabulary, where)


def _check_text(options: DataOptions, where: str) -> list[Problem]:
    if synthetic.asked(options.path):
        return []
    if denied := places.unreadable(options.path, f"{where}: data.path"):
        return denied
    if found := parquet.files(options.path):
        return parquet.check(found, f"{where}: data.path", *_columns(options))
    if not options.path or expand_home(options.path).exists():
        return []
    return [Problem(f"{where}: data.path", f"'{options.path}' does not exist", "name a text file or a folder of them")]


class Windows:
    """Some of the windows of a text in memory; window i is S tokens from i * S, its target the same moved by one."""

    def __init__(self, tokens_T: np.ndarray, places_N: np.ndarray, sequence: int, facts: dict[str, Any]) -> None:
        self._tokens_T, self._places_N, self._sequence, self._facts = tokens_T, places_N, sequence, facts

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._places_N)

    def fetch(self, ids_B: np.ndarray) -> tuple[Any, Any]:
        """Return tokens [B, S] and the tokens that follow them [B, S]."""
        import numpy as np
        import torch

        places_BS = self._places_N[ids_B, None] * self._sequence + np.arange(self._sequence + 1)
        window_BS = torch.from_numpy(self._tokens_T[places_BS].astype(np.int64))
        return window_BS[:, :-1].contiguous(), window_BS[:, 1:].contiguous()

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""
        return {**self._facts, "num_samples": len(self)}


def read(options: DataOptions, sequence: int, vocabulary: int, tokens: Tokens = BYTES) -> Parts:
    """Read a text and split its windows: every fifth is never trained on.

    Raises:
        RunError: there is no such text, it is shorter than a sample, or its tokens are not in the vocabulary.
    """
    import numpy as np

    if synthetic.asked(options.path):
        tokens = Tokens(facts={**tokens.facts, **synthetic.facts()})
        name, tokens_T = (
            options.path,
            synthetic.whole_numbers(vocabulary, synthetic.samples_of(8 * sequence) * sequence + 1),
        )
    else:
        name, tokens_T = _tokens(options)
    if options.tokenizer:
        path = expand_home(options.tokenizer)
        encode = partial(tokenizer.encode, path, needed_by="data.tokenizer")
        tokens = Tokens(encode, {**tokens.facts, **tokenizer.facts(path)})
    if tokens.encode is not None and tokens_T.dtype == np.uint8:
        tokens_T = tokens.encode(tokens_T.tobytes())
    num_windows = max(0, len(tokens_T) - 1) // sequence
    if num_windows < 1:
        what = f"{name}: {len(tokens_T)} tokens are less than one sample of {sequence} + 1"
        raise RunError(Cause.DATA, what)
    if int(tokens_T.max()) >= vocabulary or int(tokens_T.min()) < 0:
        what = f"{name}: tokens from {tokens_T.min()} to {tokens_T.max()}, the vocabulary has 0 to {vocabulary - 1}"
        raise RunError(Cause.DATA, what)
    facts = {
        "name": name,
        "num_bytes" if tokens_T.dtype == np.uint8 else "num_tokens": len(tokens_T),
        "sha256": hashlib.sha256(tokens_T.tobytes()).hexdigest()[:16],
        "synthetic": False,
        **tokens.facts,
    }
    places_N = np.arange(num_windows)
    kept_N = places_N % EVALUATION_EVERY == EVALUATION_EVERY - 1
    held = places_N[kept_N]
    some = held[np.linspace(0, len(held), min(options.evaluation, len(held)), endpoint=False).astype(int)]
    return Parts(*(Windows(tokens_T, chosen, sequence, facts) for chosen in (places_N[~kept_N], some)))


def _tokens(options: DataOptions) -> tuple[str, np.ndarray]:
    """Return the name of a text and its tokens [T]."""
    import numpy as np

    path = expand_home(options.path)
    if not options.path:
        return "python-standard-library", np.frombuffer(_read(_library_files(), STANDARD_LIBRARY_BYTES), dtype=np.uint8)
    if found := parquet.files(options.path):
        return str(path), _from_parquet(found, _columns(options))
    if path.suffix != ".npy":
        return str(path), np.frombuffer(_read(_user_files(path)), dtype=np.uint8)
    try:
        tokens_T = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(Cause.DATA, f"cannot read {path}: {error}") from error
    if tokens_T.ndim != 1 or tokens_T.dtype.kind not in "iu":
        what = f"{path}: tokens are one axis of whole numbers, this is {tokens_T.dtype} {list(tokens_T.shape)}"
        raise RunError(Cause.DATA, what)
    # Bytes would be taken for text that a tokenizer has yet to read.
    return str(path), tokens_T.astype(np.int16) if tokens_T.dtype == np.uint8 else tokens_T


def _columns(options: DataOptions) -> tuple[tuple[str, ...], ...]:
    """Return the columns to look for; a tokenizer reads text, whatever tokens somebody else made of it."""
    return (("text",),) if options.tokenizer else _COLUMNS


def _from_parquet(found: list[Path], columns: Sequence[Sequence[str]]) -> np.ndarray:
    """Return tokens [T]: those of all rows one after the other, or the bytes of all texts, one a line."""
    import numpy as np

    [name] = parquet.choose(found, *columns)
    column = parquet.read(found, [name])[name]
    if name == "text":
        texts = column.to_pylist()
        if not all(isinstance(text, str) for text in texts):
            raise RunError(Cause.DATA, f"{found[0]}: the column 'text' is {column.type}, not text")
        return np.frombuffer("\n".join(texts).encode(), dtype=np.uint8)
    flat = column.flatten() if str(column.type).startswith(("list", "large_list")) else column
    tokens_T = flat.to_numpy(zero_copy_only=False)
    if tokens_T.dtype.kind not in "iu":
        raise RunError(Cause.DATA, f"{found[0]}: the column 'input_ids' is {column.type}, not whole numbers")
    return tokens_T.astype(np.int64)


def _library_files() -> Iterator[Path]:
    yield from sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))


def _user_files(path: Path) -> list[Path]:
    if not path.exists():
        raise RunError(Cause.DATA, f"data.path '{path}' does not exist on this node")
    if path.is_file():
        return [path]
    inside = (p for p in path.rglob("*") if p.is_file())
    return sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts))


def _read(files: Iterable[Path], limit: int | None = None) -> bytes:
    content = bytearray()
    for file in files:
        try:
            content += file.read_bytes()
        except OSError as error:
            raise RunError(Cause.DATA, f"cannot read {file}: {error.strerror}") from error
        if limit is not None and len(content) >= limit:
            return bytes(content[:limit])
    return bytes(content)
