"""Where one strategy overtakes another: who is the fastest at each size, as predicted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from msgspec import Struct

from hpcpar.control.forecast.forecast import Row

CANDIDATES = frozenset({"yes", "tight"})
"""What may fit."""


class Fastest(Struct, frozen=True, kw_only=True):
    """The strategy that finishes first on neighbouring sizes of the study."""

    strategy: str
    nodes: tuple[int, ...]
    sure: bool
    """Its band lies below that of every other strategy on all of these sizes."""


def fastest(rows: Sequence[Row]) -> tuple[Fastest, ...]:
    """Return who is the fastest, from the smallest size to the largest; what learns otherwise does not compete."""
    sizes = sorted({row.nodes for row in rows if _competes(row)})
    winners = [_winner([row for row in rows if row.nodes == nodes and _competes(row)]) for nodes in sizes]
    found = []
    for strategy, group in groupby(zip(winners, sizes, strict=True), key=lambda pair: pair[0][0]):
        several = list(group)
        sure = all(winner[1] for winner, _ in several)
        found.append(Fastest(strategy=strategy, nodes=tuple(nodes for _, nodes in several), sure=sure))
    return tuple(found)


def _competes(row: Row) -> bool:
    return row.fits in CANDIDATES and row.time is not None and not row.learns_otherwise


def _winner(rows: Sequence[Row]) -> tuple[str, bool]:
    best = min(rows, key=_expected)
    others = [row for row in rows if row.strategy != best.strategy]
    assert best.time is not None
    high = best.time.high
    return best.strategy, all(row.time is not None and row.time.low > high for row in others)


def _expected(row: Row) -> float:
    return row.time.expected if row.time is not None else float("inf")
