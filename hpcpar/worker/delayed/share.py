"""This rank's share of a batch and its gradient, without a word to the other ranks. Imports torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from hpcpar.worker.mesh_engine.feed import Batch
from hpcpar.worker.neural import NeuralWorkload


class Numbered(NamedTuple):
    """A share of a batch that knows its step."""

    step: int
    share: Batch


class Loss(NamedTuple):
    """The loss of a share, not divided."""

    loss_sum: Any
    weight: float


def backward(model: nn.Module, workload: NeuralWorkload, batch: Batch, micro_batch: int) -> Loss:
    """Leave in `grad` the gradient of this share's mean loss: its sum divided by its own weight.

    A share of weight 0 has a gradient of 0.
    """
    own_weight = workload.weigh(batch.targets) or 1.0
    loss_sums, weight = [], 0.0
    for inputs, targets in zip(batch.inputs.split(micro_batch), batch.targets.split(micro_batch), strict=True):
        loss_sum, its_weight = workload.loss(model(inputs), targets)
        (loss_sum / own_weight).backward()
        loss_sums.append(loss_sum.detach())
        weight += its_weight
    return Loss(torch.stack(loss_sums).sum(), weight)
