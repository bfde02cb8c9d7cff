"""What steps after the training told of a run: exposed communication, and the gradient noise scale."""

from __future__ import annotations

import math
import statistics
from typing import Any, NamedTuple

from hpcpar.records import Diagnosis

_FEWEST = 3
"""Gradients that are compared; from fewer, no error can be told."""


class Noise(NamedTuple):
    """The noise scale in samples, and the standard error of it."""

    scale: float
    error: float


def noise_of(found: Diagnosis, global_batch: int) -> Noise | None:
    """Return the gradient noise scale tr(S) / |G|^2; None where no estimate of it is positive.

    McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1: with the mean squared lengths s and t of the gradients of
    b and of B samples, |G|^2 = (B t - b s) / (B - b) and tr(S) = (s - t) / (1 / b - 1 / B). Both are means over steps
    before they are divided. The error is that of the jackknife over steps.
    """
    small, large, pairs = found.small_batch, global_batch, found.squares
    whole = all(math.isfinite(number) and number >= 0 for pair in pairs for number in pair)
    if not 0 < small < large or len(pairs) < _FEWEST or not whole:
        return None
    sums = [math.fsum(column) for column in zip(*pairs, strict=True)]
    scale = _scale(sums[0], sums[1], small, large)
    others = [_scale(sums[0] - s, sums[1] - t, small, large) for s, t in pairs]
    known = [value for value in others if value is not None]
    if scale is None or len(known) < len(pairs):
        return None
    return Noise(scale, math.sqrt((len(known) - 1) * statistics.pvariance(known)))


def _scale(small_square: float, large_square: float, small: int, large: int) -> float | None:
    signal = (large * large_square - small * small_square) / (large - small)
    noise = (small_square - large_square) / (1 / small - 1 / large)
    return noise / signal if signal > 0 and noise > 0 else None


def columns(found: Diagnosis | None, global_batch: int) -> dict[str, Any]:
    """Return what the steps after the training told."""
    if found is None or not 0 <= found.exposed_s <= found.communication_s <= found.wall_s < math.inf:
        return {}
    noise = noise_of(found, global_batch)
    return {
        "communication_s": found.communication_s,
        "exposed_communication_s": found.exposed_s,
        "overlap": 1 - found.exposed_s / found.communication_s if found.communication_s else None,
        "compute_share": found.compute_s / found.wall_s if found.wall_s else None,
        "noise_scale": noise.scale if noise else None,
        "noise_scale_error": noise.error if noise else None,
    }
