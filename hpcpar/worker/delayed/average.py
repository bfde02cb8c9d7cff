"""Weighted means over the replicas, one message each. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed

_LEAST_WEIGHT = 1e-20
"""Nothing beside one sample, and far from the smallest number of fp32 (1e-38)."""


def flatten(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Copy tensors into one vector of fp32, or of float64 where one of them has it."""
    kind = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    return torch.cat([t.detach().reshape(-1).to(kind) for t in tensors])


def unflatten(flat: torch.Tensor, like: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield views of a vector in the shapes of `like`."""
    for part, tensor in zip(flat.split([t.numel() for t in like]), like, strict=True):
        yield part.view_as(tensor)


def weighted_mean(tensors: Sequence[torch.Tensor], weight: float, group: Any) -> None:
    """Replace every tensor x by sum(weight x) / sum(weight) over the ranks of `group`; the weights travel along.

    Where no rank has any weight, all count alike.
    """
    one = torch.ones(1, device=tensors[0].device)
    flat = flatten([*tensors, one]) * max(weight, _LEAST_WEIGHT)
    distributed.all_reduce(flat, group=group)
    mean = flat[:-1] / flat[-1]
    for tensor, values in zip(tensors, unflatten(mean, tensors), strict=True):
        tensor.detach().copy_(values)
