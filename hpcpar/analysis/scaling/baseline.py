"""What a speed-up is measured against. There is no speed-up without a named baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.series import Series
from hpcpar.errors import InputError, Problem, nearest

_FLAG = "--baseline"


class Choice(NamedTuple):
    """What `--baseline STRATEGY@NODES` names: a strategy or the full label of a series, and a size."""

    name: str
    nodes: int

    def matches(self, series: Series) -> bool:
        """Say whether the series is meant and was planned at this size."""
        return self.name in (series.label, series.strategy) and self.nodes in series.rows


class Reference(NamedTuple):
    """The runs that a series is compared with."""

    label: str
    nodes: int
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """How a table names it."""
        return f"{self.label}@{self.nodes}"


def parse(text: str) -> Choice | None:
    """Parse "ddp@1"; None for "", which means each series' own smallest size.

    Raises:
        InputError: it is not STRATEGY@NODES.
    """
    if not text:
        return None
    name, at, nodes = text.rpartition("@")
    if not at or not name or not (nodes.isascii() and nodes.isdigit()) or int(nodes[:9]) < 1:
        raise InputError(Problem(_FLAG, f"'{text}' is not STRATEGY@NODES", f"for example {_FLAG} ddp@1"))
    return Choice(name.strip(), int(nodes[:9]))


def check(choice: Choice | None, tables: Sequence[Sequence[Series]]) -> None:
    """Refuse a baseline that nobody planned, or that means several series of a table.

    Raises:
        InputError: with what there is.
    """
    if choice is None:
        return
    known = sorted({f"{one.label}@{nodes}" for table in tables for one in table for nodes in one.rows})
    matches = [[one for one in table if choice.matches(one)] for table in tables]
    if not any(matches):
        raise InputError(
            Problem(_FLAG, f"no run of {choice.name}@{choice.nodes}", nearest(f"{choice.name}@{choice.nodes}", known))
        )
    for found in matches:
        if len(found) > 1:
            labels = ", ".join(f"'{one.label}@{choice.nodes}'" for one in found)
            raise InputError(Problem(_FLAG, f"{choice.name}@{choice.nodes} means several series", f"one of: {labels}"))


def reference(series: Series, table: Sequence[Series], choice: Choice | None) -> Reference | None:
    """Return what `series` is compared with: the chosen baseline, or its own smallest size that has a time."""
    if choice is None:
        candidates = [(series, nodes) for nodes in series.rows]
    else:
        candidates = [(one, choice.nodes) for one in table if choice.matches(one)]
    for one, nodes in candidates:
        rows = one.usable(nodes)
        if rows:
            return Reference(one.label, nodes, tuple(rows))
    return None
