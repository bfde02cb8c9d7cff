"""The schedules of a table's pipelines as bars over time: one line a rank, a gap where it has nothing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from hpcpar.analysis.figures.style import COLOURS, HATCHES, INK, QUIET, WIDTH_IN, bare, heading, legend, within
from hpcpar.analysis.scaling.pipelines import Bubble, bubble_of
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.scaling.timeline import Pass, order, timeline
from hpcpar.analysis.text.captions import title
from hpcpar.analysis.text.numbers import number, plural
from hpcpar.schedules import ScheduleName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 6
MOST_RANKS = 16
MOST_PASSES = 2000
_NUMBERED = 40
"""Micro-batches up to which each is numbered."""
_ROW_IN = 0.2
_PANEL_IN = 0.62
_HEAD_IN = 0.6
_FOOT_IN = 0.42


class _Panel(NamedTuple):
    label: str
    bubble: Bubble
    passes: list[Pass]


def _panels(table: Table) -> list[_Panel]:
    """Return the different pipelines of a table, each once."""
    found: dict[tuple[object, ...], _Panel] = {}
    for cell in table.cells:
        one = bubble_of(table, cell)
        if one is None or one.ranks > MOST_RANKS or 2 * one.ranks * one.micro_batches * one.stages_a_rank > MOST_PASSES:
            continue
        orders = order(cast("ScheduleName", one.schedule), one.ranks, one.micro_batches, one.stages_a_rank)
        shape = (one.schedule, one.ranks, one.micro_batches, one.stages_a_rank)
        if orders is not None and shape not in found:
            label = f"{cell.series} on {plural(cell.nodes, 'node')}"
            found[shape] = _Panel(label, one, timeline(orders, one.stages_a_rank))
    return list(found.values())[:MOST_PANELS]


def why_not(table: Table) -> str:
    """Say why there is nothing to draw; "" where there is."""
    if all(bubble_of(table, cell) is None for cell in table.cells):
        return "no strategy has a pipeline"
    return "" if _panels(table) else "no pipeline has an order that can be drawn"


def compose(figure: Figure, table: Table) -> None:
    """Draw a panel for each pipeline."""
    from matplotlib.patches import Patch

    panels = _panels(table)
    heights = [_PANEL_IN + _ROW_IN * panel.bubble.ranks for panel in panels]
    height = _HEAD_IN + sum(heights) + _FOOT_IN
    figure.set_size_inches(WIDTH_IN, height)
    said = "By the schedule, not measured: a backward pass takes twice a forward pass, messages no time."
    heading(figure, f"Pipelines: {title(table)}", said)
    top = height - _HEAD_IN
    for panel, tall in zip(panels, heights, strict=True):
        rows_in = _ROW_IN * panel.bubble.ranks
        axes = figure.add_axes((0.08, (top - 0.22 - rows_in) / height, 0.89, rows_in / height))
        _draw(axes, panel)
        top -= tall
    signs = [Patch(facecolor=COLOURS[i], edgecolor="white", hatch=HATCHES[i]) for i in (0, 1)]
    legend(figure, signs, ["forward pass", "backward pass"], 0.26 / height)


def _draw(axes: Any, panel: _Panel) -> None:
    one = panel.bubble
    stages = f", {one.stages_a_rank} stages a rank" if one.stages_a_rank > 1 else ""
    idle = "" if one.share is None else f": bubble {number(100 * one.share, 3)} %"
    head = f"{one.schedule}, {one.ranks} ranks, {one.micro_batches} micro-batches{stages}{idle}; {panel.label}"
    end = max(each.end for each in panel.passes)
    for each in panel.passes:
        which = 0 if each.step.kind == "F" else 1
        axes.barh(
            each.rank, each.end - each.begin, left=each.begin, height=0.86, color=COLOURS[which],
            edgecolor="white", hatch=HATCHES[which], linewidth=0.5,
        )  # fmt: skip
        if one.micro_batches * one.stages_a_rank <= _NUMBERED and (each.end - each.begin) / end > 0.012:
            axes.text(
                (each.begin + each.end) / 2, each.rank, str(each.step.micro_batch + 1), fontsize=5.5, color=INK,
                ha="center", va="center", bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"},
            )  # fmt: skip
    axes.set_title(within(head, 115), fontsize=7.5, color=INK, loc="left", pad=3)
    axes.set_xlim(0, end)
    axes.set_ylim(one.ranks - 0.5, -0.5)
    axes.set_yticks(range(one.ranks), [f"rank {rank}" for rank in range(one.ranks)], fontsize=6.5)
    axes.set_xlabel("forward passes of a rank", fontsize=6.5, color=QUIET, labelpad=1)
    axes.tick_params(labelsize=6.5)
    bare(axes)
