"""Which samples a step sees: a pure function of (seed, step), the same however many ranks share the batch."""

from __future__ import annotations

import numpy as np


class Sampler:
    """Walks through the data in a new order every epoch; a batch may span two epochs."""

    def __init__(self, num_samples: int, global_batch: int, seed: int) -> None:
        self._num_samples, self._global_batch, self._seed = num_samples, global_batch, seed
        self._orders: dict[int, np.ndarray] = {}

    def ids(self, step: int, part: int = 0, num_parts: int = 1) -> np.ndarray:
        """Return the samples of part `part` (of `num_parts` contiguous, equal ones) of the batch of step 1, 2, ..."""
        share = self._global_batch // num_parts
        begin = (step - 1) * self._global_batch + part * share
        places = np.arange(begin, begin + share)
        epochs: np.ndarray = places // self._num_samples
        return np.concatenate([self._order(int(e))[places[epochs == e] % self._num_samples] for e in np.unique(epochs)])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            generator = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
            self._orders[epoch] = generator.permutation(self._num_samples)
        return self._orders[epoch]
