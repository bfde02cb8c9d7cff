"""Loss over samples and over time: what a strategy's speed is worth, one run a series."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpcpar.analysis.figures.scaling import Look, looks_of
from hpcpar.analysis.figures.style import FAINT, WIDTH_IN, bare, heading, legend, plain_decades
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.series import split
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text.captions import title
from hpcpar.analysis.text.numbers import plural
from hpcpar.records import LONGEST_S
from hpcpar.runs import StudyFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CURVES = 8
POINTS = 400
"""Points of a curve: more cannot be told apart on a page."""
LARGEST_LOSS = 1e30
"""Beyond it nothing can be read off an axis."""


class Curve(NamedTuple):
    """The losses of one run, thinned."""

    label: str
    samples: list[float]
    seconds: list[float]
    """Of all steps so far, warm-up included, waits for samples too."""
    losses: list[float]


def curves_of(table: Table, studies: Sequence[Path]) -> list[Curve]:
    """Read the losses of the first run of each series on its largest size; series without any are left out."""
    found = []
    for series in split(table.rows)[:MOST_CURVES]:
        sizes = [nodes for nodes in sorted(series.rows, reverse=True) if series.usable(nodes)]
        curve = _read(series.label, series.usable(sizes[0])[0], studies) if sizes else None
        if curve is not None:
            found.append(curve)
    return found


def _read(label: str, row: Row, studies: Sequence[Path]) -> Curve | None:
    folders = (StudyFolder(path).run(row.run) for path in studies)
    folder = next((one for one in folders if one.spec_path.exists()), None)
    if folder is None or not row.attempt:
        return None
    read = folder.step_times(row.attempt).records
    steps = [step for step in read if 0 <= step.time_s <= LONGEST_S and 0 <= step.data_s <= LONGEST_S]
    seconds = accumulate(step.time_s + step.data_s for step in steps)
    points = [
        (float(step.step * row.global_batch), at, step.loss)
        for step, at in zip(steps, seconds, strict=True)
        if step.loss is not None and abs(step.loss) <= LARGEST_LOSS
    ]
    if len(points) < 2:
        return None
    every = -(-len(points) // POINTS)
    samples, times, losses = zip(*[*points[:-1:every], points[-1]], strict=True)
    return Curve(f"{label}, {plural(row.nodes, 'node')}", list(samples), list(times), list(losses))


def compose(figure: Figure, table: Table, curves: Sequence[Curve]) -> None:
    """Draw the curves over samples and over seconds, with one axis of losses."""
    looks = {look.label: look for look in looks_of(table)}
    figure.set_size_inches(WIDTH_IN, 3.7)
    said = "One run a series, the first repeat on its largest size; training loss as recorded, not smoothed."
    heading(figure, f"Loss: {title(table)}", said)
    left = figure.add_axes((0.08, 0.33, 0.41, 0.5))
    right = figure.add_axes((0.56, 0.33, 0.41, 0.5), sharey=left)
    chosen: list[Look] = []
    for curve in curves:
        look = looks[curve.label.rpartition(",")[0]]
        chosen.append(look)
        for axes, places in ((left, curve.samples), (right, curve.seconds)):
            axes.plot(places, curve.losses, color=look.colour, linestyle=look.dashes, linewidth=1.1)
    if min(min(curve.losses) for curve in curves) > 0:
        left.set_yscale("log")
        plain_decades(left.yaxis)
    left.set_xlabel(table.rows[0].sample_unit)
    right.set_xlabel("seconds of steps")
    left.set_ylabel("loss")
    for axes in (left, right):
        axes.grid(axis="y", color=FAINT, linewidth=0.4)
        bare(axes)
    legend(figure, [look.sign(marker="") for look in chosen], [curve.label for curve in curves], 0.13)
