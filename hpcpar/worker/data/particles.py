"""A table of the shape of HIGGS, generated: any rows of it, on any rank, without the rest.

HIGGS (Baldi et al. 2014, UCI) has 28 features, of which seven are functions of the others, and a label that is about as
often 1 as 0. Here a quarter of the features are products of two others, and the label follows a hidden ensemble of
decision trees: there is something to be learnt that trees can learn, and noise that nothing can.

Legend: N rows, F features, T trees, D questions a tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 8192
"""Rows that share a generator; a part of the table's identity."""
_TREES = 24
_DEPTH = 4
_SIGNAL = 2.5
"""Spread of the hidden score."""
_NOISE = 0.5
"""Of a regression's target, whose spread without noise is `_SIGNAL`."""


class _Structure(NamedTuple):
    factors: np.ndarray
    """[derived features, 2]: of which two features each is the product."""
    features_TD: np.ndarray
    thresholds_TD: np.ndarray
    leaves: np.ndarray
    """[T, 2 ** D]."""


class Particles:
    """Rows drawn from (seed, row number) alone."""

    def __init__(self, num_features: int, seed: int, *, regression: bool, levels: int = 0) -> None:
        self._num_features, self._seed = num_features, seed
        self._regression, self._levels = regression, levels
        self._structure = _draw_structure(num_features, seed)

    def fetch(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return features [N, F] and labels [N] of the rows begin to end - 1, in float32."""
        import numpy as np

        x_NF: np.ndarray = np.empty((end - begin, self._num_features), dtype=np.float32)
        y_N: np.ndarray = np.empty(end - begin, dtype=np.float32)
        for block in range(begin // _BLOCK, -(-end // _BLOCK)):
            first, last = max(begin, block * _BLOCK), min(end, (block + 1) * _BLOCK)
            here = slice(first - block * _BLOCK, last - block * _BLOCK)
            there = slice(first - begin, last - begin)
            block_x, block_y = self._block(block)
            x_NF[there], y_N[there] = block_x[here], block_y[here]
        return x_NF, y_N

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""
        return {
            "name": "particles",
            "num_features": self._num_features,
            "levels": self._levels,
            "seed": self._seed,
            "synthetic": True,
        }

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        generator = np.random.Generator(np.random.Philox(key=[self._seed, block + 1]))
        factors = self._structure.factors
        raw = generator.standard_normal((_BLOCK, self._num_features - len(factors)), dtype=np.float32)
        x_NF = np.hstack([raw, raw[:, factors[:, 0]] * raw[:, factors[:, 1]]])
        if self._levels:
            x_NF = np.round(x_NF * np.float32(self._levels)) / np.float32(self._levels)
        score_N = self._score(x_NF)
        if self._regression:
            return x_NF, score_N + _NOISE * generator.standard_normal(_BLOCK, dtype=np.float32)
        chance_N = 1 / (1 + np.exp(-score_N))
        return x_NF, (generator.random(_BLOCK, dtype=np.float32) < chance_N).astype(np.float32)

    def _score(self, x_NF: np.ndarray) -> np.ndarray:
        import numpy as np

        structure = self._structure
        score_N: np.ndarray = np.zeros(len(x_NF), dtype=np.float32)
        for features_D, thresholds_D, leaves in zip(
            structure.features_TD, structure.thresholds_TD, structure.leaves, strict=True
        ):
            answers_ND = x_NF[:, features_D] > thresholds_D
            score_N += leaves[answers_ND @ (1 << np.arange(_DEPTH))]
        return score_N


def _draw_structure(num_features: int, seed: int) -> _Structure:
    import numpy as np

    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    derived = num_features // 4
    leaves = generator.standard_normal((_TREES, 2**_DEPTH))
    leaves -= leaves.mean(axis=1, keepdims=True)
    return _Structure(
        factors=generator.integers(num_features - derived, size=(derived, 2)),
        features_TD=generator.integers(num_features, size=(_TREES, _DEPTH)),
        thresholds_TD=generator.normal(0.0, 0.6, size=(_TREES, _DEPTH)).astype(np.float32),
        leaves=(leaves * _SIGNAL / np.sqrt(_TREES)).astype(np.float32),
    )
