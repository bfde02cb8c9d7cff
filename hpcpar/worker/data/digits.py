"""Real handwritten digits: 1797 images of 8 x 8 pixels in 16 shades, a file inside scikit-learn's package.

Source: UCI Optical Recognition of Handwritten Digits (test part), as shipped by scikit-learn; see its load_digits.
The file is read without importing scikit-learn. Legend: N samples, P = 64 pixels.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path

from hpcpar.errors import MissingExtraError, RunError
from hpcpar.records import Cause
from hpcpar.worker.data.arrays import Parts, split

NUM_PIXELS = 64
NUM_CLASSES = 10


def find() -> Path:
    """Return the file.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("scikit-learn", "torch", "workload mlp")
    return Path(next(iter(found.submodule_search_locations))) / "datasets" / "data" / "digits.csv.gz"


def read(path: Path | None = None) -> Parts:
    """Return pixels [N, P] scaled to 0..1, and labels [N].

    Raises:
        RunError: the file cannot be read (a cause data).
        MissingExtraError: scikit-learn is not installed.
    """
    import numpy as np

    path = path or find()
    try:
        content = gzip.decompress(path.read_bytes())
        table = np.array([line.split(b",") for line in content.splitlines()], dtype=np.float32)
        pixels_NP, labels_N = table[:, :NUM_PIXELS] / 16, table[:, NUM_PIXELS].astype(np.int64)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise RunError(Cause.DATA, f"cannot read the digits: {path}: {error}") from error
    facts = {"name": "digits", "sha256": hashlib.sha256(content).hexdigest()[:16], "synthetic": False}
    return split(pixels_NP, labels_N, facts)
