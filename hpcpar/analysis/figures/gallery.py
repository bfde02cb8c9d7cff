"""Every figure of a collection: what it is called, why it is not there, and its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from hpcpar.analysis.figures import bars, curves, grid, pipeline, scaling, throughput
from hpcpar.analysis.figures.style import KINDS, render
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text.captions import title
from hpcpar.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hpcpar.analysis.results import Results

FEW_TABLES = 12
"""Tables of which figures are drawn; with more, nobody looks at each."""


class Plan(NamedTuple):
    """A figure that can be drawn, or the reason why not."""

    stem: str
    """Its file's name without an ending."""
    title: str
    caption: str
    reason: str
    compose: Callable[[Figure], None]
    table: Table | None = None


class Drawn(NamedTuple):
    """A figure in every kind."""

    plan: Plan
    files: dict[str, bytes]
    """Ending to content."""


def plans(results: Results) -> Iterator[Plan]:
    """Yield all figures of a collection in their order; of tables after the first, the names end in -2, -3, ..."""
    for place, table in enumerate(results.tables[:FEW_TABLES], start=1):
        ending = "" if place == 1 else f"-{place}"
        for plan in _of_table(table, results):
            yield plan._replace(stem=plan.stem + ending, table=table)
    for place, one in enumerate((*results.against, *results.comparisons)[:FEW_TABLES], start=1):
        stem = "verdicts" if place == 1 else f"verdicts-{place}"
        said = "A sign, a word and a colour say the same: blue improves, orange deteriorates, hatched is not settled."
        yield Plan(stem, one.title, said, grid.why_not(one), partial(grid.compose, one=one))


def _of_table(table: Table, results: Results) -> Iterator[Plan]:
    name = title(table)
    yield Plan(
        "scaling", f"Speed-up and efficiency: {name}",
        "Points are geometric means over runs, bars 95 % intervals; hollow points are no evidence.",
        scaling.why_not(table), partial(scaling.compose, table=table, target=results.efficiency_target),
    )  # fmt: skip
    yield Plan(
        "throughput", f"Throughput: {name}",
        "All ranks together, with 95 % intervals over runs; grey: each series' smallest size times its ranks.",
        throughput.why_not(table), partial(throughput.compose, table=table),
    )  # fmt: skip
    found = curves.curves_of(table, results.studies)
    yield Plan(
        "loss", f"Loss over samples and time: {name}",
        "One run a series, the first repeat on its largest size. One run is no evidence of a difference.",
        "" if found else "no run recorded losses", partial(curves.compose, table=table, curves=found),
    )  # fmt: skip
    yield Plan(
        "phases", f"Phases: {name}", "Mean seconds over runs. What is not training is paid for all the same.",
        bars.why_no_phases(table), partial(bars.compose_phases, table=table),
    )  # fmt: skip
    yield Plan(
        "memory", f"Memory: {name}", "The peak of the rank that held most, and what of it is known by name.",
        bars.why_no_memory(table), partial(bars.compose_memory, table=table),
    )  # fmt: skip
    yield Plan(
        "pipeline", f"Pipelines: {name}", "When each rank works on which micro-batch, by the schedule; not measured.",
        pipeline.why_not(table), partial(pipeline.compose, table=table),
    )  # fmt: skip


def draw_all(results: Results, kinds: tuple[str, ...] = KINDS) -> tuple[list[Drawn], list[str]]:
    """Draw every figure that can be drawn; for what is not drawn, the reason."""
    drawn: list[Drawn] = []
    reasons: list[str] = []
    for plan in plans(results):
        if plan.reason:
            reasons.append(f"No figure {plan.stem} ({plan.title}): {plan.reason}")
            continue
        try:
            drawn.append(Drawn(plan, render(plan.compose, kinds)))
        except MissingExtraError as error:
            return drawn, [*reasons, f"No figures: {error}"]
    return drawn, reasons
