"""The scaling figure: speed-up on logarithmic axes, ideal through the baseline; and efficiency with its target."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hpcpar.analysis.figures.style import (
    COLOURS,
    DASHES,
    FAINT,
    MARKERS,
    QUIET,
    WIDTH_IN,
    heading,
    nodes_axis,
    powers_of_two,
    render,
    text_line,
)
from hpcpar.analysis.scaling.flags import DECLARED
from hpcpar.analysis.scaling.table import Cell, Table
from hpcpar.analysis.text.captions import baseline_lines, fixed_quantity, title, warmup_words
from hpcpar.analysis.text.numbers import number, plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOP_IN = 0.8
_PANEL_IN = 2.5
_LINE_IN = 0.135
_WRAP = 132
_LONGEST_LABEL = 100
_TARGET_DASHES = (0, (4, 3))


class Look(NamedTuple):
    """How one series is drawn."""

    label: str
    cells: list[Cell]
    colour: str
    marker: str
    dashes: Any
    offset: float
    """Octaves by which its points stand aside, so that error bars do not cover each other."""

    def sign(self, marker: str | None = None) -> Any:
        """Return what stands for it in a legend."""
        from matplotlib.lines import Line2D

        shown = self.marker if marker is None else marker
        return Line2D([], [], color=self.colour, marker=shown, linestyle=self.dashes, linewidth=1.3, markersize=5)


def why_not(table: Table) -> str:
    """Say why there is nothing to draw; "" where there is."""
    if table.key.scaling not in DECLARED:
        return "no scaling was declared, so there is no speed-up"
    if not table.references:
        return "no baseline has a time"
    if not any(cell.speedup is not None and not cell.is_baseline for cell in table.cells):
        return "nothing but the baseline has a speed-up; a second size (or another strategy) is needed"
    return ""


def draw(table: Table, target: float, kind: str) -> bytes:
    """Draw a table as "png", "svg" or "pdf".

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    return render(lambda figure: compose(figure, table, target), [kind])[kind]


def compose(figure: Figure, table: Table, target: float) -> None:
    """Place title, panels, legend and caption; all places in inches from the top, so that nothing overlaps."""
    looks = looks_of(table)
    caption = _caption(table)
    signs, labels = _legend_entries(looks, target)
    columns = max(1, min(4, _WRAP // (max(map(len, labels)) + 12)))
    height = _TOP_IN + _PANEL_IN + 0.5 + 0.17 * -(-len(labels) // columns) + 0.1 + _LINE_IN * len(caption) + 0.06
    figure.set_size_inches(WIDTH_IN, height)
    heading(figure, title(table), subtitle(table))
    bottom = 1 - (_TOP_IN + _PANEL_IN) / height
    left = figure.add_axes((0.55 / WIDTH_IN, bottom, 2.85 / WIDTH_IN, _PANEL_IN / height))
    right = figure.add_axes((4.1 / WIDTH_IN, bottom, 2.85 / WIDTH_IN, _PANEL_IN / height))
    _speedup_panel(left, table, looks)
    _efficiency_panel(right, looks, target)
    for axes in (left, right):
        nodes_axis(axes, [cell.nodes for cell in table.cells])
    figure.legend(
        signs, labels, loc="upper left", bbox_to_anchor=(0.07 / WIDTH_IN, bottom - 0.44 / height), ncols=columns,
        frameon=False, fontsize=7.5, handlelength=3.2, columnspacing=1.6, borderaxespad=0,
    )  # fmt: skip
    for place, line in enumerate(reversed(caption)):
        text_line(figure, (0.1 + _LINE_IN * place) / height, line, 6.6, color=QUIET)


def looks_of(table: Table) -> list[Look]:
    """Give every series of a table its colour, marker and dashes: the same in every figure."""
    groups = table.series()
    middle = (len(groups) - 1) / 2
    spread = min(0.04, 0.24 / len(groups))
    return [
        Look(
            label,
            cells,
            COLOURS[i % len(COLOURS)],
            MARKERS[i % len(MARKERS)],
            DASHES[i % len(DASHES)],
            (i - middle) * spread,
        )
        for i, (label, cells) in enumerate(groups.items())
    ]


def subtitle(table: Table) -> str:
    """Return what is fixed, for the line below a title."""
    return f"Fixed {fixed_quantity(table)}; {plural(table.key.ranks_per_node, 'rank')} a node"


def _caption(table: Table) -> list[str]:
    runs = sorted({cell.runs_ok for cell in table.cells if cell.runs_ok})
    many = plural(runs[0], "run") if runs[0] == runs[-1] else f"{runs[0]} to {runs[-1]} runs"
    sentences = [
        *(f"Baseline: {line}." for line in baseline_lines(table)),
        f"Points: geometric means over {many}, each the mean step time after {warmup_words(table)} warm-up steps. "
        "Bars: 95 % t-intervals over runs; a baseline is 1 by definition, one run has no bar.",
    ]
    return [line for sentence in sentences for line in textwrap.wrap(sentence, _WRAP)]


def _speedup_panel(axes: Any, table: Table, looks: Sequence[Look]) -> None:
    kind = "Scaled speed-up (ratio of throughputs)" if table.key.scaling == "weak" else "Speed-up"
    for nodes in sorted({reference.nodes for reference in table.references}):
        names = {reference.name for reference in table.references if reference.nodes == nodes}
        reach = [cell.nodes for cell in table.cells if cell.baseline in names]
        ends = [min(reach), max(reach)]
        axes.plot(ends, [end / nodes for end in ends], color=QUIET, linewidth=0.8, zorder=1)
    for look in looks:
        draw_series(axes, look, "speedup")
    axes.set_yscale("log", base=2)
    powers_of_two(axes.yaxis)
    axes.set_title(kind, loc="left", fontsize=8.5)


def _efficiency_panel(axes: Any, looks: Sequence[Look], target: float) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.axhline(1, color=QUIET, linewidth=0.8, zorder=1)
    axes.axhline(target, color=QUIET, linewidth=0.8, linestyle=_TARGET_DASHES, zorder=1)
    top = 1.1
    for look in looks:
        draw_series(axes, look, "efficiency")
        known = [cell.efficiency for cell in look.cells if cell.efficiency is not None]
        # An interval that is open to the sky must not press the rest of the panel flat.
        top = max([top, *(min(one.high or one.value, 2 * one.value) * 1.04 for one in known)])
        lost = [cell.nodes * 2**look.offset for cell in look.cells if cell.step_time_s is None]
        if lost:
            axes.plot(lost, [0.03] * len(lost), "x", color=look.colour, markersize=5, markeredgewidth=1.2)
    axes.set_ylim(0, top)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=FAINT, linewidth=0.4)
    axes.set_title("Efficiency", loc="left", fontsize=8.5)


def draw_series(axes: Any, look: Look, quantity: str) -> None:
    """Draw one quantity of a series: points with intervals, hollow where they are no evidence."""
    points = [(cell, getattr(cell, quantity)) for cell in look.cells if getattr(cell, quantity) is not None]
    places = [cell.nodes * 2**look.offset for cell, _ in points]
    values = [known.value for _, known in points]
    axes.plot(places, values, color=look.colour, linestyle=look.dashes, linewidth=1.3, zorder=3)
    for place, (cell, known) in zip(places, points, strict=True):
        if known.low is not None and known.high is not None:
            axes.plot([place, place], [known.low, known.high], color=look.colour, linewidth=1.1, zorder=2)
        face = look.colour if cell.evidence else "white"
        axes.plot(
            [place], [known.value], look.marker, color=look.colour, markerfacecolor=face, markersize=4.5, zorder=4
        )


def _legend_entries(looks: Sequence[Look], target: float) -> tuple[list[Any], list[str]]:
    """Return the signs that the panels use and what each of them means."""
    from matplotlib.lines import Line2D

    entries = [look.sign() for look in looks]
    labels = [textwrap.shorten(look.label, _LONGEST_LABEL, placeholder=" ...") for look in looks]
    cells = [cell for look in looks for cell in look.cells]
    entries.append(Line2D([], [], color=QUIET, linewidth=0.8))
    labels.append("ideal")
    entries.append(Line2D([], [], color=QUIET, linewidth=0.8, linestyle=_TARGET_DASHES))
    labels.append(f"efficiency target {number(100 * target, 3).removesuffix('.0')} %")
    if any(cell.speedup is not None and not cell.evidence for cell in cells):
        entries.append(Line2D([], [], color=QUIET, marker="o", markerfacecolor="white", linestyle="", markersize=5))
        labels.append(_hollow_words(cells))
    if any(cell.step_time_s is None for cell in cells):
        entries.append(Line2D([], [], color=QUIET, marker="x", linestyle="", markersize=5, markeredgewidth=1.2))
        labels.append("no result")
    return entries, labels


def _hollow_words(cells: Sequence[Cell]) -> str:
    """Say what a hollow point means here."""
    if any(cell.oversubscribed for cell in cells):
        return "hollow: oversubscribed, no evidence"
    return "hollow: disturbed, no evidence"
