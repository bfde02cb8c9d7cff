"""After how many steps the step time is steady: the warm-up cut of runs whose study declared none.

The rule looks at rolling blocks of ten steps, and at nothing but this run: its own second half says what is usual, so
that a machine which is always restless is not taken for one that still warms up.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, insort
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
    allowed = max(TOLERANCE, FACTOR * statistics.median(_rolling_spreads(later)))
    for cut in range(least, most + 1):
        block = sorted(times_s[cut : cut + BLOCK])
        if _spread(block) <= allowed and abs((block[4] + block[5]) / 2 / level - 1) <= allowed:
            return cut
    return None


def _rolling_spreads(times_s: Sequence[float]) -> list[float]:
    """Return the spread of every ten steps in a row; each block is the one before with one step for another."""
    block = sorted(times_s[:BLOCK])
    spreads = [_spread(block)]
    for gone, come in zip(times_s, times_s[BLOCK:], strict=False):
        del block[bisect_left(block, gone)]
        insort(block, come)
        spreads.append(_spread(block))
    return spreads


def _spread(block: Sequence[float]) -> float:
    """Return the interquartile range over the median of ten sorted times, as `statistics.quantiles` defines them."""
    low = (block[1] + 3 * block[2]) / 4
    high = (3 * block[7] + block[8]) / 4
    return 2 * (high - low) / (block[4] + block[5])
