"""The model of the workload nbow. Imports torch; knows nothing of parallelism.

Iyyer et al. 2015, Deep Unordered Composition Rivals Syntactic Methods for Text Classification (ACL), with one hidden
layer. Legend: B samples, L words, D width of a word, C classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hpcpar.worker.neural import Unit


class Bag(nn.Module):
    """The mean of the words, and a hidden layer on it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, hidden)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """Return the hidden layer [B, hidden]."""
        return F.gelu(self.hidden(x_BLD.mean(1)))


def units(vocabulary: int, dim: int, hidden: int, classes: int) -> tuple[Unit, ...]:
    """Return the words, the bag and the output layer."""
    return (
        Unit("words", partial(nn.Embedding, vocabulary, dim), {"": "vocabulary"}),
        Unit("bag", partial(Bag, dim, hidden), {"hidden": "column"}),
        Unit("output", partial(nn.Linear, hidden, classes), {"": "row"}),
    )


def initialise(name: str, values: Any, generator: torch.Generator) -> None:
    """Fill a parameter: zeros for biases, one over the root of the inputs for matrices, normal for words."""
    if values.dim() == 1:
        values.zero_()
    else:
        values.normal_(0.0, 1.0 if name.startswith("words") else values.shape[1] ** -0.5, generator=generator)


def loss(logits_BC: Any, labels_B: Any) -> tuple[Any, float]:
    """Return the summed cross-entropy and the number of samples."""
    return F.cross_entropy(logits_BC, labels_B, reduction="sum"), float(len(labels_B))
