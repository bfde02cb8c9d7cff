"""The scaling figure: speed-up on logarithmic axes with the ideal through the baseline, and efficiency with its target.

Colour, marker and dashes all tell the series, so that it can be read in grey and by everybody. Palette: M. Okabe and
K. Ito, Color Universal Design, 2008, without its yellow, which thin lines lose on white.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hpcpar.analysis.captions import baseline_lines, fixed_quantity, title, warmup_words
from hpcpar.analysis.flags import DECLARED
from hpcpar.analysis.numbers import number, plural
from hpcpar.analysis.scaling import Cell, Table
from hpcpar.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)), (0, (3, 1)))
_INK, _QUIET, _FAINT = "#222222", "#666666", "#D9D9D9"
_SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "hpcpar",
}
_WIDTH_IN = 7.09
"""180 mm: the width of a printed page's text."""
_MARGIN_IN = 0.14
_TOP_IN = 0.8
_PANEL_IN = 2.5
_LINE_IN = 0.135
_WRAP = 132
_LONGEST_LABEL = 100
_TARGET_DASHES = (0, (4, 3))
_MOST_TICKS = 10
_DPI = 200


class _Look(NamedTuple):
    """How one series is drawn."""

    label: str
    cells: list[Cell]
    colour: str
    marker: str
    dashes: Any
    offset: float
    """Octaves by which its points stand aside, so that error bars do not cover each other."""


def draw_all(tables: Sequence[Table], target: float) -> tuple[dict[str, bytes], list[str]]:
    """Draw every table that can be drawn.

    Returns:
        File name to content (scaling.png, scaling.svg, then scaling-2.png, ...), and for what is not drawn the reason.
    """
    files: dict[str, bytes] = {}
    reasons: list[str] = []
    for place, table in enumerate(tables, start=1):
        stem = "scaling" if place == 1 else f"scaling-{place}"
        reason = why_not(table)
        if reason:
            reasons.append(f"No figure {stem}.png ({title(table)}): {reason}")
            continue
        try:
            files |= {f"{stem}.{kind}": draw(table, target, kind) for kind in ("png", "svg")}
        except MissingExtraError as error:
            return files, [*reasons, f"No figures: {error}"]
    return files, reasons


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
    """Draw a table as "png" or "svg"; the same table gives the same bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "report", "the scaling figure") from error

    # Neither date nor version goes into the file: equal input must give equal bytes.
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    out = io.BytesIO()
    with mpl.rc_context(_SETTINGS):
        figure = Figure(facecolor="white")
        _compose(figure, table, target)
        figure.savefig(out, format=kind, dpi=_DPI, metadata=metadata)
    return out.getvalue()


def _compose(figure: Figure, table: Table, target: float) -> None:
    """Place title, panels, legend and caption; all places in inches from the top, so that nothing overlaps."""
    looks = _looks(table)
    caption = _caption(table)
    signs, labels = _legend_entries(looks, target)
    columns = max(1, min(4, _WRAP // (max(map(len, labels)) + 12)))
    height = _TOP_IN + _PANEL_IN + 0.5 + 0.17 * -(-len(labels) // columns) + 0.1 + _LINE_IN * len(caption) + 0.06
    figure.set_size_inches(_WIDTH_IN, height)
    for words, down, size, weight, colour in (
        (title(table), 0.24, 9.5, "bold", _INK),
        (_subtitle(table), 0.42, 8.0, "normal", _QUIET),
    ):
        _text(figure, 1 - down / height, words, size, color=colour, weight=weight)
    bottom = 1 - (_TOP_IN + _PANEL_IN) / height
    left = figure.add_axes((0.55 / _WIDTH_IN, bottom, 2.85 / _WIDTH_IN, _PANEL_IN / height))
    right = figure.add_axes((4.1 / _WIDTH_IN, bottom, 2.85 / _WIDTH_IN, _PANEL_IN / height))
    _speedup_panel(left, table, looks)
    _efficiency_panel(right, looks, target)
    for axes in (left, right):
        _nodes_axis(axes, table)
    figure.legend(
        signs, labels, loc="upper left", bbox_to_anchor=(0.07 / _WIDTH_IN, bottom - 0.44 / height), ncols=columns,
        frameon=False, fontsize=7.5, handlelength=3.2, columnspacing=1.6, borderaxespad=0,
    )  # fmt: skip
    for place, line in enumerate(reversed(caption)):
        _text(figure, (0.1 + _LINE_IN * place) / height, line, 6.6, color=_QUIET)


def _text(figure: Figure, y: float, words: str, size: float, **style: Any) -> None:
    """Write a line at the left edge; one that is too long for the page shrinks instead of leaving it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight=style.get("weight", "normal"))
    # Rasterised letters are up to some per cent wider than their outlines: hinting rounds each to whole pixels.
    width_in = 1.06 * TextPath((0, 0), words, size=size, prop=font).get_extents().width / 72
    fitted = size * min(1.0, (_WIDTH_IN - 2 * _MARGIN_IN) / width_in)
    figure.text(_MARGIN_IN / _WIDTH_IN, y, words, fontsize=fitted, **style)


def _looks(table: Table) -> list[_Look]:
    groups = table.series()
    middle = (len(groups) - 1) / 2
    spread = min(0.04, 0.24 / len(groups))
    return [
        _Look(
            label,
            cells,
            COLOURS[i % len(COLOURS)],
            MARKERS[i % len(MARKERS)],
            DASHES[i % len(DASHES)],
            (i - middle) * spread,
        )
        for i, (label, cells) in enumerate(groups.items())
    ]


def _subtitle(table: Table) -> str:
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


def _speedup_panel(axes: Any, table: Table, looks: Sequence[_Look]) -> None:
    kind = "Scaled speed-up (ratio of throughputs)" if table.key.scaling == "weak" else "Speed-up"
    for nodes in sorted({reference.nodes for reference in table.references}):
        names = {reference.name for reference in table.references if reference.nodes == nodes}
        reach = [cell.nodes for cell in table.cells if cell.baseline in names]
        ends = [min(reach), max(reach)]
        axes.plot(ends, [end / nodes for end in ends], color=_QUIET, linewidth=0.8, zorder=1)
    for look in looks:
        _draw_series(axes, look, "speedup")
    axes.set_yscale("log", base=2)
    _powers_of_two(axes.yaxis)
    axes.set_title(kind, loc="left", fontsize=8.5)


def _efficiency_panel(axes: Any, looks: Sequence[_Look], target: float) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.axhline(1, color=_QUIET, linewidth=0.8, zorder=1)
    axes.axhline(target, color=_QUIET, linewidth=0.8, linestyle=_TARGET_DASHES, zorder=1)
    top = 1.1
    for look in looks:
        _draw_series(axes, look, "efficiency")
        known = [cell.efficiency for cell in look.cells if cell.efficiency is not None]
        # An interval that is open to the sky must not press the rest of the panel flat.
        top = max([top, *(min(one.high or one.value, 2 * one.value) * 1.04 for one in known)])
        lost = [cell.nodes * 2**look.offset for cell in look.cells if cell.step_time_s is None]
        if lost:
            axes.plot(lost, [0.03] * len(lost), "x", color=look.colour, markersize=5, markeredgewidth=1.2)
    axes.set_ylim(0, top)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=_FAINT, linewidth=0.4)
    axes.set_title("Efficiency", loc="left", fontsize=8.5)


def _draw_series(axes: Any, look: _Look, quantity: str) -> None:
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


def _nodes_axis(axes: Any, table: Table) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    sizes = sorted({cell.nodes for cell in table.cells})
    if len(sizes) > _MOST_TICKS:
        sizes = [2**power for power in range(sizes[-1].bit_length()) if 2**power >= sizes[0]]
    axes.set_xlim(min(sizes) / 2**0.25, max(cell.nodes for cell in table.cells) * 2**0.25)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Nodes")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5, width=0.6)


def _powers_of_two(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=2))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.axes.grid(axis="y", color=_FAINT, linewidth=0.4)


def _legend_entries(looks: Sequence[_Look], target: float) -> tuple[list[Any], list[str]]:
    """Return the signs that the panels use and what each of them means."""
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes, linewidth=1.3, markersize=5)
        for look in looks
    ]
    labels = [textwrap.shorten(look.label, _LONGEST_LABEL, placeholder=" ...") for look in looks]
    cells = [cell for look in looks for cell in look.cells]
    entries.append(Line2D([], [], color=_QUIET, linewidth=0.8))
    labels.append("ideal")
    entries.append(Line2D([], [], color=_QUIET, linewidth=0.8, linestyle=_TARGET_DASHES))
    labels.append(f"efficiency target {number(100 * target, 3).removesuffix('.0')} %")
    if any(cell.speedup is not None and not cell.evidence for cell in cells):
        entries.append(Line2D([], [], color=_QUIET, marker="o", markerfacecolor="white", linestyle="", markersize=5))
        labels.append(_hollow_words(cells))
    if any(cell.step_time_s is None for cell in cells):
        entries.append(Line2D([], [], color=_QUIET, marker="x", linestyle="", markersize=5, markeredgewidth=1.2))
        labels.append("no result")
    return entries, labels


def _hollow_words(cells: Sequence[Cell]) -> str:
    """Say what a hollow point means here."""
    if any(cell.oversubscribed for cell in cells):
        return "hollow: oversubscribed, no evidence"
    return "hollow: disturbed, no evidence"
