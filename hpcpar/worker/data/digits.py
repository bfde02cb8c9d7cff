"""Real handwritten digits: 1797 images of 8 x 8 pixels in 16 shades, a file inside scikit-learn's package.

Source: UCI Optical Recognition of Handwritten Digits (test part), as shipped by scikit-learn; see its load_digits.
The file is read without importing scikit-learn. Legend: B samples, P = 64 pixels.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcpar.errors import MissingExtraError, RunError
from hpcpar.records import Cause

if TYPE_CHECKING:
    import numpy as np  # 0.1 s that the login node does not pay

NUM_PIXELS = 64
NUM_CLASSES = 10
_EVALUATION_EVERY = 5
"""Every fifth image is kept for evaluation, so that all writers and digits are in both parts."""


def find() -> Path:
    """Return the file.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("scikit-learn", "torch", "workload mlp")
    return Path(next(iter(found.submodule_search_locations))) / "datasets" / "data" / "digits.csv.gz"


class Digits:
    """The training part in memory; pixels scaled to 0..1."""

    def __init__(self, path: Path | None = None) -> None:
        import numpy as np

        path = path or find()
        try:
            content = gzip.decompress(path.read_bytes())
            table = np.array([line.split(b",") for line in content.splitlines()], dtype=np.float32)
            pixels, labels = table[:, :NUM_PIXELS] / 16, table[:, NUM_PIXELS].astype(np.int64)
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise RunError(Cause.DATA, f"cannot read the digits: {path}: {error}") from error
        kept = np.arange(len(table)) % _EVALUATION_EVERY == _EVALUATION_EVERY - 1
        self._pixels_NP, self._labels_N = pixels[~kept], labels[~kept]
        self.evaluation = (pixels[kept], labels[kept])
        """Pixels and labels that training never sees."""
        self._sha256 = hashlib.sha256(content).hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of training samples."""
        return len(self._labels_N)

    def fetch(self, ids_B: np.ndarray) -> tuple[Any, Any]:
        """Return pixels [B, P] and labels [B]."""
        import torch

        return torch.from_numpy(self._pixels_NP[ids_B]), torch.from_numpy(self._labels_N[ids_B])

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""
        return {"name": "digits", "num_samples": len(self), "sha256": self._sha256, "synthetic": False}
