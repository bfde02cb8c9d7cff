"""Throughput over nodes: the absolute number behind every speed-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcpar.analysis.figures.scaling import draw_series, looks_of, subtitle
from hpcpar.analysis.figures.style import QUIET, WIDTH_IN, heading, legend, nodes_axis, plain_decades
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text.captions import title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def why_not(table: Table) -> str:
    """Say why there is nothing to draw; "" where there is."""
    return "" if any(cell.samples_per_s for cell in table.cells) else "no run has a throughput"


def compose(figure: Figure, table: Table) -> None:
    """Draw every series with its intervals, and a line of slope 1 through each baseline."""
    from matplotlib.lines import Line2D

    looks = [look for look in looks_of(table) if any(cell.samples_per_s for cell in look.cells)]
    figure.set_size_inches(WIDTH_IN, 3.9)
    heading(figure, f"Throughput: {title(table)}", subtitle(table))
    axes = figure.add_axes((0.1, 0.29, 0.87, 0.55))
    for look in looks:
        draw_series(axes, look, "samples_per_s")
        known = [cell for cell in look.cells if cell.samples_per_s is not None]
        first, last = known[0], known[-1]
        if first.samples_per_s is not None:
            ends = [first.samples_per_s.value, first.samples_per_s.value * last.ranks / first.ranks]
            axes.plot([first.nodes, last.nodes], ends, color=QUIET, linewidth=0.6, zorder=1)
    axes.set_yscale("log")
    plain_decades(axes.yaxis)
    axes.set_ylabel(f"{table.rows[0].sample_unit}/s")
    nodes_axis(axes, [cell.nodes for cell in table.cells])
    ideal = Line2D([], [], color=QUIET, linewidth=0.6)
    legend(figure, [*(look.sign() for look in looks), ideal], [*(look.label for look in looks), "ideal"], 0.12)
