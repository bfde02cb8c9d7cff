"""Bars, one a row of a table: where the time of a run went, and what memory it took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hpcpar.analysis.figures.style import COLOURS, FAINT, HATCHES, INK, WIDTH_IN, bare, heading, legend, within
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.rows.usage import HELD
from hpcpar.analysis.scaling.series import split
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text.captions import title
from hpcpar.analysis.text.numbers import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 40
_ORDER = ("start", "build", "restore", "train", "checkpoint", "evaluate", "finish")
_WAITS = {"idle": "#BDBDBD", "queue": "#DEDEDE"}
"""Phases in which nothing is done: at the end of a bar, in greys, so that a long queue does not outshine the work."""
_ROW_IN = 0.19
_LONGEST = 40
"""Letters of a label."""
_HEAD_IN = 0.67
_GIB = 2**30


class _Bar(NamedTuple):
    label: str
    parts: dict[str, float]


def _bars(table: Table, parts: Callable[[Sequence[Row]], dict[str, float]]) -> list[_Bar]:
    found = [
        _Bar(within(f"{series.label}, {plural(nodes, 'node')}", _LONGEST), parts(series.usable(nodes)))
        for series in split(table.rows)
        for nodes in sorted(series.rows)
        if series.usable(nodes)
    ]
    return [bar for bar in found if sum(bar.parts.values()) > 0]


def _phases(rows: Sequence[Row]) -> dict[str, float]:
    """Return the mean seconds of every phase over these runs."""
    names = {name for row in rows for name in row.phases}
    place = {name: i for i, name in enumerate((*_ORDER, "", *_WAITS))}
    ordered = sorted(names, key=lambda name: (place.get(name, place[""]), name))
    return {name: sum(row.phases.get(name, 0.0) for row in rows) / len(rows) for name in ordered}


def _memory(rows: Sequence[Row]) -> dict[str, float]:
    """Return what the rank with the largest peak held (of its device, else of its process), and the rest of it."""
    devices = [row for row in rows if row.peak_device_bytes]
    found = devices or [row for row in rows if row.peak_memory_bytes]
    if not found:
        return {}
    most = max(found, key=lambda row: (row.peak_device_bytes if devices else row.peak_memory_bytes) or 0)
    peak = (most.peak_device_bytes if devices else most.peak_memory_bytes) or 0
    held = {what: getattr(most, f"memory_{what}_bytes") or 0 for what in HELD}
    if not any(held.values()) or sum(held.values()) > peak:  # nobody counted, or no single rank held all of it
        return {"device memory" if devices else "resident memory": peak / _GIB}
    rest = "the rest of the device" if devices else "the rest of the process"
    parts = {**held, rest: peak - sum(held.values())}
    return {name: size / _GIB for name, size in parts.items() if size}


def why_no_phases(table: Table) -> str:
    """Say why there is nothing to draw; "" where there is."""
    return _why(_bars(table, _phases), "no run says how long its phases took")


def why_no_memory(table: Table) -> str:
    """Say why there is nothing to draw; "" where there is."""
    return _why(_bars(table, _memory), "no run says what memory it took")


def _why(bars: Sequence[_Bar], nothing: str) -> str:
    if not bars:
        return nothing
    return f"{len(bars)} bars are too many for a page" if len(bars) > MOST_BARS else ""


def compose_phases(figure: Figure, table: Table) -> None:
    """Draw the mean seconds of each phase of a run, stacked."""
    said = "Mean over runs; a phase is that of the attempt that made the result. Training includes the warm-up."
    _compose(figure, _bars(table, _phases), f"Phases: {title(table)}", said, "seconds of a run")


def compose_memory(figure: Figure, table: Table) -> None:
    """Draw the peak memory of a rank, and what of it is known by name."""
    said = "Peak of the rank that held most, of its device, else of its process; parts as of after the last step."
    _compose(figure, _bars(table, _memory), f"Memory: {title(table)}", said, "peak of a rank (GiB)")


def _compose(figure: Figure, bars: Sequence[_Bar], head: str, said: str, unit: str) -> None:
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(name for bar in bars for name in bar.parts))
    below = 0.78 if len(names) > 1 else 0.5
    height = _HEAD_IN + _ROW_IN * len(bars) + below
    figure.set_size_inches(WIDTH_IN, height)
    heading(figure, head, said)
    widest = min(0.4, 0.02 + 0.0095 * max(len(bar.label) for bar in bars))
    axes = figure.add_axes((widest, below / height, 0.96 - widest, _ROW_IN * len(bars) / height))
    looks = {name: _look(name, number) for number, name in enumerate(names)}
    for place, bar in enumerate(bars):
        left = 0.0
        for name, value in bar.parts.items():
            axes.barh(place, value, left=left, height=0.72, linewidth=0.3, **looks[name])
            left += value
        axes.text(left, place, f" {left:.3g}", va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08 * max(sum(bar.parts.values()) for bar in bars))
    axes.grid(axis="x", color=FAINT, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set_xlabel(unit)
    bare(axes)
    if len(names) > 1:
        legend(figure, [Patch(**looks[name]) for name in names], names, 0.3 / height)


def _look(name: str, number: int) -> dict[str, Any]:
    colour = _WAITS.get(name, COLOURS[number % len(COLOURS)])
    return {"facecolor": colour, "edgecolor": "white", "hatch": HATCHES[number % len(HATCHES)]}
