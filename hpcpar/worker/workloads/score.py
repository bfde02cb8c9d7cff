"""How the neural workloads are scored on their evaluation samples. Imports torch.

Legend: B samples, C classes, ... any further axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcpar.worker.data.pairs import PADDING
from hpcpar.worker.neural import Samples


def correct(logits_BC: Any, labels_B: Any) -> tuple[Any, float]:
    """Return how many samples got their class, and how many there are; the ratio is the accuracy."""
    return (logits_BC.argmax(-1) == labels_B).sum(), float(len(labels_B))


def correct_tokens(logits_BSV: Any, targets_BS: Any) -> tuple[Any, float]:
    """Return how many tokens were foreseen, and how many there are; the ratio is the accuracy."""
    return (logits_BSV.argmax(-1) == targets_BS).sum(), float(targets_BS.numel())


def exact(logits_BTV: Any, targets_BT: Any) -> tuple[Any, float]:
    """Return how many targets are right in every character, and how many there are.

    The model is shown the right characters before each one. Where all are right, writing greedily on its own it would
    have seen the same: so this is the share of targets that it writes without a mistake.
    """
    right_BT = (logits_BTV.argmax(-1) == targets_BT) | (targets_BT == PADDING)
    return right_BT.all(1).sum(), float(len(targets_BT))


def explained(training: Samples) -> Callable[[Any, Any], tuple[Any, float]]:
    """Return the score of a reconstruction: the share of the variance around the mean that it explains.

    The mean is that of the first 4096 training samples: 0 is what it would score itself, 1 is perfect. Pairs
    (V - E, V) are added up over samples, E the squared error and V the squared distance from the mean.
    """
    mean = training.fetch(np.arange(min(4096, len(training))))[1].double().mean(0)

    def score(output: Any, targets: Any) -> tuple[Any, float]:
        error = (output.double() - targets.double()).square().sum()
        variance = (targets.double() - mean.to(targets.device)).square().sum()
        return variance - error, float(variance)

    return score
