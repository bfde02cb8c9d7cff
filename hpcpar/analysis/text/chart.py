"""Efficiency as bars of characters, for a terminal."""

from __future__ import annotations

from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text.sheet import one_line

_EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"
_FULL = "\u2588"
_MOST_ROWS = 24
_LABEL = 28


def bars(table: Table, width: int, target: float) -> str:
    """Draw the efficiency of every row but the baselines; "" where there is none, or more than a screen shows.

    Args:
        table: a scaling table.
        width: columns of the terminal.
        target: the efficiency that is wanted; rows below it end in a sign.
    """
    cells = [cell for cell in table.cells if cell.efficiency is not None and not cell.is_baseline]
    room = width - _LABEL - 12
    if not cells or len(cells) > _MOST_ROWS or room < 10:
        return ""
    most = max(1.0, *(cell.efficiency.value for cell in cells if cell.efficiency is not None))
    lines = ["Efficiency (100 % = ideal)"]
    for cell in cells:
        if cell.efficiency is None:
            continue
        share = cell.efficiency.value
        sign = "" if not cell.evidence else " <" if share < target else ""
        label = one_line(f"{cell.series} on {cell.nodes}")[-_LABEL:]
        lines.append(f"  {label:<{_LABEL}} {_bar(share / most * room)} {100 * share:.0f} %{sign}")
    return "\n".join([*lines, f"  < below the target of {100 * target:g} %"])


def _bar(length: float) -> str:
    full, part = divmod(round(8 * length), 8)
    return _FULL * full + (_EIGHTHS[part] if part else "")
