"""How the neural workloads are scored on their evaluation samples. Imports torch.

Legend: B samples, C classes, ... any further axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcpar.worker.neural import Samples


def correct(logits_BC: Any, labels_B: Any) -> tuple[Any, float]:
    """Return how many samples got their class, and how many there are; the ratio is the accuracy."""
    return (logits_BC.argmax(-1) == labels_B).sum(), float(len(labels_B))


def explained(training: Samples) -> Callable[[Any, Any], tuple[Any, float]]:
    """Return the score of a reconstruction: the share of the variance around the training samples' mean it explains.

    0 is what the mean itself would give, 1 is perfect. Pairs (V - E, V) are added up over samples, with E the squared
    error and V the squared distance from the mean.
    """
    mean = training.fetch(np.arange(len(training)))[1].double().mean(0)

    def score(output: Any, targets: Any) -> tuple[Any, float]:
        error = (output.double() - targets.double()).square().sum()
        variance = (targets.double() - mean.to(targets.device)).square().sum()
        return variance - error, float(variance)

    return score
