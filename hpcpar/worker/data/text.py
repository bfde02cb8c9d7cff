"""Text as bytes, cut into windows: a file or a folder of the user, or the sources of Python's standard library.

Legend: B samples, S bytes (tokens) a sample.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from hpcpar.errors import Problem, RunError
from hpcpar.records import Cause

if TYPE_CHECKING:
    import numpy as np  # 0.1 s that the login node does not pay

STANDARD_LIBRARY_BYTES = 2_000_000
"""How much of the standard library's sources is read: enough that a short run does not see a byte twice."""


class DataOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which text."""

    path: str = ""
    """A file, or a folder whose files are read in sorted order; "" takes the sources of Python's standard library."""


def check(options: DataOptions, where: str) -> list[Problem]:
    """Say whether the text is not there."""
    if not options.path or Path(options.path).expanduser().exists():
        return []
    return [Problem(f"{where}: data.path", f"'{options.path}' does not exist", "name a text file or a folder of them")]


class TextWindows:
    """All of the text in memory; sample i is the window of S bytes from i * S, its target the same moved by one."""

    def __init__(self, options: DataOptions, sequence: int) -> None:
        import numpy as np

        self._sequence = sequence
        if options.path:
            path = Path(options.path).expanduser()
            self._name, content = str(path), _read(_user_files(path))
        else:
            self._name, content = "python-standard-library", _read(_library_files(), STANDARD_LIBRARY_BYTES)
        self._bytes = np.frombuffer(content, dtype=np.uint8)
        self._sha256 = hashlib.sha256(content).hexdigest()[:16]
        if len(self) < 1:
            raise RunError(Cause.DATA, f"{self._name}: {len(content)} bytes are less than one sample of {sequence} + 1")

    def __len__(self) -> int:
        """Return the number of samples."""
        return max(0, len(self._bytes) - 1) // self._sequence

    def fetch(self, ids_B: np.ndarray) -> tuple[Any, Any]:
        """Return bytes [B, S] and the bytes that follow them [B, S]."""
        import numpy as np
        import torch

        places_BS = ids_B[:, None] * self._sequence + np.arange(self._sequence + 1)
        window_BS = torch.from_numpy(self._bytes[places_BS].astype(np.int64))
        return window_BS[:, :-1].contiguous(), window_BS[:, 1:].contiguous()

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""
        return {
            "name": self._name,
            "num_samples": len(self),
            "num_bytes": len(self._bytes),
            "sha256": self._sha256,
            "synthetic": False,
        }


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
