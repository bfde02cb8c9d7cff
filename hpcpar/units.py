"""Durations, memory and node lists: parse and print. Pure functions; every error is a ValueError with a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable

_DURATION_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{2})(?::(\d{2}))?", re.ASCII)
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(i?)B?", re.ASCII | re.IGNORECASE)
_MEMORY_EXPONENT = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_MAX_NODES = 1_000_000


def parse_duration(text: str) -> float:
    """Parse "90s", "30m", "1h30m", "2d", "00:30:00" or Slurm's "1-12:00:00" into seconds.

    A bare number is refused: Slurm reads it as minutes, people mean seconds.

    Raises:
        ValueError: the text is none of these forms.
    """
    text = text.strip()
    clock = _CLOCK.fullmatch(text)
    if clock:
        return _clock_seconds(clock)
    compact = text.replace(" ", "")
    parts = _DURATION_PARTS.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(f"'{text}' is not a duration: write 90s, 30m, 1h30m, 2d or 00:30:00")
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def _clock_seconds(clock: re.Match[str]) -> float:
    days, first, second, third = clock.groups()
    if third is None:  # Slurm: MM:SS, but D-HH:MM once days are given
        hours, minutes, seconds = (int(first), int(second), 0) if days else (0, int(first), int(second))
    else:
        hours, minutes, seconds = int(first), int(second), int(third)
    return float(int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds)


def slurm_time(seconds: float) -> str:
    """Print seconds as Slurm's [D-]HH:MM:SS, rounded up to a whole second."""
    whole = int(-(-seconds // 1))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def human_duration(seconds: float) -> str:
    """Print seconds for a person: "0.8s", "42s", "3m10s", "2h05m", "3d04h"."""
    if seconds < 10:
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

    Raises:
        ValueError: the text is not a size, or has no unit.
    """
    match = _MEMORY.fullmatch(text.strip())
    if not match or not match.group(2):
        raise ValueError(f"'{text}' is not a memory size: write 64GiB or 512M")
    return int(float(match.group(1)) * 1024 ** _MEMORY_EXPONENT[match.group(2).upper()])


def slurm_memory(num_bytes: int) -> str:
    """Print bytes as Slurm's mebibytes, rounded up."""
    return f"{-(-num_bytes // 1024**2)}M"


def human_memory(num_bytes: float) -> str:
    """Print bytes for a person, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def expand_nodes(text: str) -> list[str]:
    """Expand a Slurm node list: "n[1-3,07],login" gives n1 n2 n3 n07 login. Several brackets in a name are a product.

    Raises:
        ValueError: brackets do not match, a range runs backwards, or the list is absurdly long.
    """
    return [name for item in _split_outside_brackets(text) for name in _expand_one(item)]


def _split_outside_brackets(text: str) -> list[str]:
    items, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in (0, 1):
            raise ValueError(f"node list '{text}': brackets do not match")
        if char == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
    if depth:
        raise ValueError(f"node list '{text}': brackets do not match")
    return [item for item in [*items, text[start:]] if item]


def _expand_one(item: str) -> list[str]:
    head, bracket, tail = item.partition("[")
    if not bracket:
        return [item]
    inside, _, rest = tail.partition("]")
    suffixes = _expand_one(rest)
    names = [head + number + suffix for number in _expand_ranges(inside) for suffix in suffixes]
    if len(names) > _MAX_NODES:
        raise ValueError(f"node list '{item}': more than {_MAX_NODES} names")
    return names


def _expand_ranges(text: str) -> list[str]:
    numbers: list[str] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not dash:
            numbers.append(low)
            continue
        if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
            raise ValueError(f"node list: '{part}' is not a range")
        if int(low) > int(high) or int(high) - int(low) > _MAX_NODES:
            raise ValueError(f"node list: '{part}' is not a usable range")
        numbers.extend(str(number).zfill(len(low)) for number in range(int(low), int(high) + 1))
    return numbers


def compress_nodes(names: Iterable[str]) -> str:
    """Print node names as a Slurm node list: n1 n2 n3 n07 gives "n07,n[1-3]". `expand_nodes` gives the same set back."""
    groups: dict[tuple[str, int], list[int]] = {}
    plain: list[str] = []
    for name in sorted(set(names)):
        match = re.fullmatch(r"(.*?)(\d+)", name, re.ASCII | re.DOTALL)
        if match and "[" not in name:
            digits = match.group(2)
            # Width matters only for zero-padded numbers; n9 and n10 belong together.
            width = len(digits) if digits.startswith("0") and len(digits) > 1 else 0
            groups.setdefault((match.group(1), width), []).append(int(digits))
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
