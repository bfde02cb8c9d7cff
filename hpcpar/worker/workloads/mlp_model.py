"""The model of the workload mlp. Imports torch; knows nothing of parallelism.

Legend: B samples, P pixels, C classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hpcpar.worker.data.digits import NUM_CLASSES, NUM_PIXELS
from hpcpar.worker.neural import TensorStyle, Unit


def units(hidden: int, layers: int, inputs: int = NUM_PIXELS, classes: int = NUM_CLASSES) -> tuple[Unit, ...]:
    """Return the hidden layers and the output layer."""
    sizes = [inputs, *[hidden] * layers]
    # Tensor parallel layers come in pairs; the last layer closes a pair that is open, or stays whole (few classes).
    pair: tuple[TensorStyle, TensorStyle] = ("column", "row")
    inner = [Unit(f"hidden{i}", partial(_hidden, sizes[i], sizes[i + 1]), {"0": pair[i % 2]}) for i in range(layers)]
    plan: dict[str, TensorStyle] = {"": "row"} if layers % 2 else {}
    return (*inner, Unit("output", partial(nn.Linear, hidden, classes), plan))


def _hidden(inputs: int, outputs: int) -> nn.Module:
    # Smooth on purpose: with ReLU a rounding error at the kink grows to 1e-3 within twenty steps (measured).
    return nn.Sequential(nn.Linear(inputs, outputs), nn.GELU())


def initialise(name: str, values: Any, generator: torch.Generator) -> None:
    """Fill a parameter: He's normal initialisation for weights (He et al. 2015, equation 10), zeros for biases."""
    if values.dim() == 1:
        values.zero_()
    else:
        values.normal_(0.0, (2.0 / values.shape[1]) ** 0.5, generator=generator)


def loss(logits_BC: Any, labels_B: Any) -> tuple[Any, float]:
    """Return the summed cross-entropy and the number of samples."""
    return F.cross_entropy(logits_BC, labels_B, reduction="sum"), float(len(labels_B))
