"""What a workload of the kind "boosting" hands to the strategies: a table, parameters and a metric. Light at import.

Legend: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from hpcpar.registry import Declaration

if TYPE_CHECKING:
    import numpy as np  # 0.1 s that the login node does not pay

DeviceName = Literal["cpu", "cuda"]


class LabelledRows(Protocol):
    """A table addressed by row number, of which a rank reads no more than it needs."""

    def fetch(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return features [N, F] and labels [N] of the rows begin to end - 1, in float32.

        Raises:
            RunError: (a cause "data") there are not so many rows, or they cannot be read.
        """

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record: name, synthetic, and what tells one table from another."""


class Evaluation(NamedTuple):
    """What the grown trees are asked once all have grown."""

    samples: range
    """The numbers of the evaluation rows, over all ranks."""
    metric: str
    """"accuracy" or "explained_variance"; more is better."""


class BoostingWorkload(Struct, frozen=True, kw_only=True):
    """Trees to be grown, one more a step."""

    declared: Declaration
    samples: LabelledRows
    evaluation_rows: int
    """The first rows of the table, which training never sees; training takes the rows after them."""
    parameters: Mapping[str, Any]
    """XGBoost's parameters, without threads and device."""
    metric: str
    """XGBoost's name of what is measured on the evaluation rows after each round: a mean over rows, or its root."""
    evaluation: Evaluation
    max_bin: int
    device: DeviceName
    early_stopping_rounds: int = 0
    """End when the metric was no better for so many rounds; 0: never."""
    batch_rows: int = 0
    """Rows that a rank reads at a time; 0: all of its rows are in memory."""
