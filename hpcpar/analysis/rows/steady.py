"""After how many steps the step time is steady: the warm-up cut of runs whose study declared none.

The rule looks at rolling blocks of ten steps, and at nothing but this run: its own second half says what is usual, so
that a machine which is always restless is not taken for one that still warms up.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

BLOCK = 10
TOLERANCE = 0.02
"""A block may differ from what is usual, and spread, by this share at least, however quiet the second half is."""
FACTOR = 2.0
"""And by this times the usual spread of a block."""
MOST = 50
"""Longer warm-ups are not looked for: the run is then not steady."""


def settled(times_s: Sequence[float], least: int) -> int | None:
    """Return how many steps of a run are warm-up.

    The first number c from `least` to 50 (and to half of the run) such that the block of ten steps after step c has a
    median, and a spread (interquartile range over median), that are usual: within 2 %, or within twice the median
    spread of the blocks in the second half, of that half's median.

    Args:
        times_s: of all steps of the run, the first one first.
        least: cut so many steps in any case.

    Returns:
        None where no such block exists.
    """
    half = len(times_s) // 2
    most = min(MOST, half)
    if len(times_s) < 4 * BLOCK or most < least:
        return least
    later = times_s[half:]
    level = statistics.median(later)
    spreads = [_spread(later[i : i + BLOCK]) for i in range(len(later) - BLOCK + 1)]
    allowed = max(TOLERANCE, FACTOR * statistics.median(spreads))
    for cut in range(least, most + 1):
        block = times_s[cut : cut + BLOCK]
        if _spread(block) <= allowed and abs(statistics.median(block) / level - 1) <= allowed:
            return cut
    return None


def _spread(block: Sequence[float]) -> float:
    low, middle, high = statistics.quantiles(block, n=4)
    return (high - low) / middle
