"""Cut a model's units into pipeline stages of even weight. Pure but for counting parameters on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from hpcpar.worker.neural import Unit


def cut(units: tuple[Unit, ...], num_stages: int, stage: int) -> tuple[Unit, ...]:
    """Return the units of a stage; there are at least as many units as stages."""
    if num_stages == 1:
        return units
    bounds = partition([_num_parameters(unit) for unit in units], num_stages)
    return units[bounds[stage] : bounds[stage + 1]]


def partition(weights: Sequence[int], parts: int) -> tuple[int, ...]:
    """Split a sequence into consecutive, non-empty parts so that the heaviest one is as light as can be.

    Returns:
        The `parts` + 1 bounds: part i is weights[bounds[i]:bounds[i + 1]].
    """

    @cache
    def best(begin: int, left: int) -> tuple[int, tuple[int, ...]]:
        if left == 1:
            return sum(weights[begin:]), (begin, len(weights))
        options = []
        for end in range(begin + 1, len(weights) - left + 2):
            rest, bounds = best(end, left - 1)
            options.append((max(sum(weights[begin:end]), rest), (begin, *bounds)))
        return min(options)

    return best(0, parts)[1]


def _num_parameters(unit: Unit) -> int:
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in unit.build().parameters())
