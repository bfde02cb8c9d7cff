"""Durations, memory and node lists: parse and print. Pure functions; every error is a ValueError with a sentence."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from fractions import Fraction

# The number of digits is bounded so that no input is too long to be a number.
_NUMBER = r"\d{1,15}(?:\.\d{1,15})?"
_DURATION = re.compile(rf"(?:{_NUMBER} *(?:ms|s|min|m|h|d) *)+", re.ASCII)
_DURATION_PARTS = re.compile(rf"({_NUMBER}) *(ms|s|min|m|h|d)", re.ASCII)
_SECONDS: dict[str, Fraction | int] = {"ms": Fraction(1, 1000), "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"(?:(\d{1,9})-)?(\d{1,9}):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_MEMORY = re.compile(rf"({_NUMBER}) *([KMGTP])i?B?", re.ASCII | re.IGNORECASE)
_MEMORY_EXPONENT = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_MAX_NODES = 1_000_000
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)
_NO_NODE_NAME = re.compile(r"[\s,\[\]]")


def parse_duration(text: str) -> float:
    """Parse "90s", "30m", "1h30m", "2d", "00:30:00" or Slurm's "1-12:00:00" into seconds.

    A bare number is refused: Slurm reads it as minutes, people mean seconds.

    Raises:
        ValueError: the text is none of these forms, or names a unit twice.
    """
    stripped = text.strip()
    clock = _CLOCK.fullmatch(stripped)
    if clock:
        return _clock_seconds(clock)
    parts = _DURATION_PARTS.findall(stripped) if _DURATION.fullmatch(stripped) else []
    if not parts:
        raise ValueError(f"'{_shortened(text)}' is not a duration: write 90s, 30m, 1h30m, 2d or 00:30:00")
    if len({_SECONDS[unit] for _, unit in parts}) < len(parts):
        raise ValueError(f"'{_shortened(text)}' is not a duration: a unit is given twice")
    return float(sum(Fraction(number) * _SECONDS[unit] for number, unit in parts))


def _clock_seconds(clock: re.Match[str]) -> float:
    days, first, second, third = clock.groups()
    if third is None:  # Slurm: MM:SS, but D-HH:MM once days are given
        hours, minutes, seconds = (int(first), int(second), 0) if days else (0, int(first), int(second))
    else:
        hours, minutes, seconds = int(first), int(second), int(third)
    return float(int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds)


def slurm_time(seconds: float) -> str:
    """Print seconds as Slurm's [D-]HH:MM:SS, rounded up to a whole second.

    Raises:
        ValueError: the seconds are negative or no finite number.
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{seconds} seconds cannot be a time limit")
    whole = math.ceil(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def human_duration(seconds: float) -> str:
    """Print seconds for a person: "0.8s", "42s", "3m10s", "2h05m", "3d04h"."""
    if seconds < 9.95:  # from there on one decimal would print "10.0s"
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def parse_memory(text: str) -> int:
    """Parse "64GiB", "64G" or "512M" into bytes. As in Slurm, every prefix is binary, with or without the "i".

    Nothing at all ("0G") is refused: to Slurm it means all of a node's memory.

    Raises:
        ValueError: the text is not a size, has no unit, or is less than a byte.
    """
    match = _MEMORY.fullmatch(text.strip())
    if not match:
        raise ValueError(f"'{_shortened(text)}' is not a memory size: write 64GiB or 512M")
    size = int(Fraction(match.group(1)) * 1024 ** _MEMORY_EXPONENT[match.group(2).upper()])
    if not size:
        raise ValueError(f"'{_shortened(text)}' is no memory at all: write 64GiB or 512M")
    return size


def slurm_memory(num_bytes: int) -> str:
    """Print bytes as Slurm's mebibytes, rounded up."""
    return f"{-(-num_bytes // 1024**2)}M"


def human_memory(num_bytes: float) -> str:
    """Print bytes for a person, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        # 1023.95 would print as "1024.0"; bytes have no decimals
        if abs(num_bytes) < (1023.5 if unit == "B" else 1023.95):
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def expand_nodes(text: str) -> list[str]:
    """Expand a Slurm node list: "n[1-3,07],login" gives n1 n2 n3 n07 login. Several brackets in a name are a product.

    Raises:
        ValueError: brackets do not match, a range is no range or runs backwards, or the list is absurdly long.
    """
    items = [_parts_of(item) for item in _split_outside_brackets(text)]
    # Counted before anything is built: two ranges in one name multiply.
    if sum(math.prod(len(choices) for choices in parts) for parts in items) > _MAX_NODES:
        raise ValueError(f"node list '{_shortened(text)}': more than {_MAX_NODES} names")
    return ["".join(pieces) for parts in items for pieces in itertools.product(*parts)]


def _split_outside_brackets(text: str) -> list[str]:
    items, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in (0, 1):
            raise ValueError(f"node list '{_shortened(text)}': brackets do not match")
        if char == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
    if depth:
        raise ValueError(f"node list '{_shortened(text)}': brackets do not match")
    return [item.strip() for item in [*items, text[start:]] if item.strip()]


def _parts_of(item: str) -> list[list[str]]:
    """Split "n[1-2]x[7,8]" into [["n"], ["1", "2"], ["x"], ["7", "8"], [""]]."""
    parts: list[list[str]] = []
    while item:
        head, bracket, item = item.partition("[")
        parts.append([head])
        if bracket:
            inside, _, item = item.partition("]")
            parts.append(_expand_ranges(inside))
    return parts


def _expand_ranges(text: str) -> list[str]:
    numbers: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if not match:
            raise ValueError(f"node list: '{_shortened(part)}' is not a range: write 1-4 or 7")
        low, high = match.group(1), match.group(2) or match.group(1)
        if not 0 <= int(high) - int(low) < _MAX_NODES - len(numbers):
            raise ValueError(f"node list: '{part}' runs backwards or is longer than {_MAX_NODES} names")
        numbers.extend(str(number).zfill(len(low)) for number in range(int(low), int(high) + 1))
    return numbers


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def compress_nodes(names: Iterable[str]) -> str:
    """Print node names as a Slurm node list: n1 n2 n3 n07 gives "n07,n[1-3]". `expand_nodes` gives the same set back.

    What no node can be called (it holds a comma, a bracket or white space) stands as it is and does not read back:
    names come from records, and a stray one must not cost the table its row.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    plain: list[str] = []
    for name in sorted(filter(None, set(names))):
        digits = name[len(name.rstrip("0123456789")) :][-18:]
        if digits and not _NO_NODE_NAME.search(name):
            # Width matters only for zero-padded numbers; n9 and n10 belong together.
            width = len(digits) if digits.startswith("0") and len(digits) > 1 else 0
            groups.setdefault((name[: -len(digits)], width), []).append(int(digits))
        else:
            plain.append(name)
    return ",".join([*plain, *(_print_group(prefix, width, ns) for (prefix, width), ns in groups.items())])


def _print_group(prefix: str, width: int, numbers: list[int]) -> str:
    numbers = sorted(numbers)
    ranges: list[str] = []
    start = previous = numbers[0]
    for number in [*numbers[1:], None]:
        if number is not None and number == previous + 1 and (width == 0 or len(str(number)) <= width):
            previous = number
            continue
        low, high = str(start).zfill(width), str(previous).zfill(width)
        ranges.append(low if start == previous else f"{low}-{high}")
        if number is not None:
            start = previous = number
    if len(ranges) == 1 and "-" not in ranges[0]:
        return prefix + ranges[0]
    return f"{prefix}[{','.join(ranges)}]"
