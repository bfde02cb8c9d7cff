"""Random numbers in the place of data, for pure throughput: always the same, and there is nothing to learn in them.

Named by `data.path=synthetic:`, and marked in every record. Legend: N samples, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PATH = "synthetic:"
SAMPLES = 2048
_MOST_BYTES = 128 * 2**20
_FEWEST = 64


def asked(path: str) -> bool:
    """Say whether a data.path asks for it."""
    return path == PATH


def samples_of(num_bytes: int) -> int:
    """Return how many samples there are where one takes so many bytes: all ranks keep them in memory."""
    return max(_FEWEST, min(SAMPLES, _MOST_BYTES // num_bytes))


def whole_numbers(below: int, *shape: int) -> np.ndarray:
    """Return random whole numbers from 0 to below - 1."""
    import numpy as np

    return np.random.default_rng(below).integers(below, size=shape, dtype=np.int64)


def facts() -> dict[str, Any]:
    """Describe it for the record."""
    return {"name": "random numbers", "synthetic": True}
