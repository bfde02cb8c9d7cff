"""Weighted means over the replicas, one message each. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed

_LEAST_WEIGHT = 1e-20
"""Nothing beside one sample, and far from the smallest number of fp32 (1e-38)."""


def weighted_mean(tensors: Sequence[torch.Tensor], weight: float, group: Any) -> None:
    """Replace every tensor x by sum(weight x) / sum(weight) over the ranks of `group`; the weights travel along.

    Half precision is averaged in fp32. Where no rank has any weight, all count alike.
    """
    kind = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    flat = torch.cat([t.detach().reshape(-1).to(kind) for t in tensors] + [tensors[0].new_ones(1, dtype=kind)])
    flat *= max(weight, _LEAST_WEIGHT)
    distributed.all_reduce(flat, group=group)
    flat /= flat[-1].clone()
    for tensor, mean in zip(tensors, flat[:-1].split([t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))
