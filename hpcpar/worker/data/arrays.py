"""Samples that are rows of arrays in memory, and how they are split for evaluation. Light at import.

Legend: N samples, B samples of a batch, ... further axes of a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np  # 0.1 s that the login node does not pay

EVALUATION_EVERY = 5
"""Every fifth sample is kept for evaluation: what is sorted (by writer, class or file) is in both parts."""


class Rows:
    """Inputs and targets, row by row."""

    def __init__(self, inputs_N: np.ndarray, targets_N: np.ndarray, facts: dict[str, Any]) -> None:
        self.inputs_N, self.targets_N, self._facts = inputs_N, targets_N, facts

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets_N)

    def fetch(self, ids_B: np.ndarray) -> tuple[Any, Any]:
        """Return inputs [B, ...] and targets [B, ...]."""
        import torch

        return torch.from_numpy(self.inputs_N[ids_B]), torch.from_numpy(self.targets_N[ids_B])

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""
        return {**self._facts, "num_samples": len(self)}


class Parts(NamedTuple):
    """A data set in its two parts."""

    training: Any
    evaluation: Any
    """What training never sees. Both are neural.Samples."""


def split(inputs_N: np.ndarray, targets_N: np.ndarray, facts: dict[str, Any]) -> Parts:
    """Split rows into the two parts."""
    import numpy as np

    kept_N = np.arange(len(targets_N)) % EVALUATION_EVERY == EVALUATION_EVERY - 1
    return Parts(*(Rows(inputs_N[chosen], targets_N[chosen], facts) for chosen in (~kept_N, kept_N)))
