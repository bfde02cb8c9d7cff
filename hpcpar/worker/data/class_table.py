"""Rows of numbers with a class each: the digits that come with scikit-learn, or a table of the user's own.

Legend: N rows, F features.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from hpcpar.errors import Problem, RunError
from hpcpar.records import Cause
from hpcpar.worker.data import digits, parquet, places, synthetic
from hpcpar.worker.data.arrays import EVALUATION_EVERY, Parts, split

_LABEL = "label"


class RowOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows."""

    path: str = ""
    """Parquet (a file, or a folder of them): the column `label` is the class, all others are features, numbers. Each
    feature is moved and scaled to mean 0 and deviation 1 over the training rows. "synthetic:" takes random rows as long
    as a digit, "" scikit-learn's digits."""
    classes: Annotated[int, Meta(ge=2)] = digits.NUM_CLASSES
    """How many classes there are; labels are 0 .. classes - 1."""

    def __post_init__(self) -> None:
        if not self.path and self.classes != digits.NUM_CLASSES:
            raise ValueError(f"data.classes is {digits.NUM_CLASSES} for the digits: set it together with data.path")


def check(options: RowOptions, where: str) -> list[Problem]:
    """Say what is wrong with the user's table, as far as its header tells."""
    if not options.path:
        return []
    key = f"{where}: data.path"
    if synthetic.asked(options.path):
        return []
    if denied := places.unreadable(options.path, key):
        return denied
    found = parquet.files(options.path)
    if not found:
        fix = "name a file .parquet, or a folder of them"
        return [Problem(key, f"'{options.path}' is no Parquet file and no folder of them", fix)]
    return parquet.check(found, key, (_LABEL,))


def read(options: RowOptions) -> Parts:
    """Return features [N, F] and classes [N] in two parts.

    Raises:
        RunError: the table is missing, damaged, or not of the declared kind (a cause data).
    """
    import numpy as np

    if not options.path:
        return digits.read()
    if synthetic.asked(options.path):
        rows_NF = synthetic.whole_numbers(17, synthetic.SAMPLES, digits.NUM_PIXELS).astype(np.float32) / 16
        return split(rows_NF, synthetic.whole_numbers(options.classes, synthetic.SAMPLES), synthetic.facts())
    found = parquet.files(options.path)
    if not found:
        raise RunError(Cause.DATA, f"data.path '{options.path}' has no Parquet on this node")
    features = [name for name in parquet.names(found[0]) if name != _LABEL]
    columns = parquet.read(found, [*features, _LABEL])
    try:
        values_NF = np.column_stack([np.asarray(columns[name], dtype=np.float64) for name in features])
        labels_N = np.asarray(columns[_LABEL])
    except (ValueError, TypeError) as error:
        raise RunError(Cause.DATA, f"{found[0]}: features are numbers: {error}") from error
    if not np.isfinite(values_NF).all():
        raise RunError(Cause.DATA, f"{found[0]}: a feature is not finite")
    if labels_N.dtype.kind not in "iu" or len(labels_N) == 0 or labels_N.min() < 0 or labels_N.max() >= options.classes:
        what = f"labels must be whole numbers from 0 to {options.classes - 1} (data.classes)"
        raise RunError(Cause.DATA, f"{found[0]}: {what}")
    trained_N = np.arange(len(labels_N)) % EVALUATION_EVERY != EVALUATION_EVERY - 1
    spread_F = values_NF[trained_N].std(0)
    scaled_NF = (values_NF - values_NF[trained_N].mean(0)) / np.where(spread_F > 0, spread_F, 1)
    digest = hashlib.sha256(values_NF.tobytes() + labels_N.tobytes()).hexdigest()[:16]
    facts = {"name": str(Path(options.path)), "features": len(features), "sha256": digest, "synthetic": False}
    return split(scaled_NF.astype(np.float32), labels_N.astype(np.int64), facts)
