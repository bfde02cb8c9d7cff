"""Numbers for people: rounded by what is known of them. Files for machines keep full precision."""

from __future__ import annotations

import math

from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.units import human_memory

NOTHING = "-"
_MOST_DIGITS = 6
_WITHOUT_INTERVAL = 4


def estimate(known: Estimate | None) -> str:
    """Print "112.4 [111.0, 113.8]": two significant digits of the interval's half-width, everything to that place."""
    if known is None:
        return NOTHING
    if known.low is None or known.high is None:
        return number(known.value)
    places = _places(known.value, known.high - known.low)
    value, low, high = (_fixed(x, places) for x in (known.value, known.low, known.high))
    return f"{value} [{low}, {high}]"


def number(value: float | None, digits: int = _WITHOUT_INTERVAL) -> str:
    """Print a number without an interval: `digits` significant digits."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    return _fixed(value, digits - 1 - math.floor(math.log10(abs(value))))


def span(low: float | None, high: float | None) -> str:
    """Print a range of values, or the one value where they agree to six digits."""
    if low is None or high is None:
        return NOTHING
    first, last = number(low, _MOST_DIGITS), number(high, _MOST_DIGITS)
    return first if first == last else f"{first} .. {last}"


def memory(num_bytes: int | None) -> str:
    """Print bytes; what was not measured (0) is no number."""
    return human_memory(num_bytes) if num_bytes else NOTHING


def plural(count: int, word: str) -> str:
    """Print "1 node", "2 nodes"."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _places(value: float, width: float) -> int:
    """Return decimal places so that the half-width keeps two digits, within what is sensible for the value."""
    magnitude = math.floor(math.log10(abs(value))) if value else 0
    finest = _MOST_DIGITS - 1 - magnitude
    if width <= 0:
        return min(finest, _WITHOUT_INTERVAL - 1 - magnitude)
    # However wide the interval, the value itself keeps two digits: "50 [1, 2296]", not "0 [0, 2300]".
    return min(finest, max(1 - math.floor(math.log10(width / 2)), 1 - magnitude))


def _fixed(value: float, places: int) -> str:
    if abs(value) >= 1e15 or (value and abs(value) < 1e-12):
        return f"{value:.3g}"
    return f"{round(value, places):.{max(places, 0)}f}"
