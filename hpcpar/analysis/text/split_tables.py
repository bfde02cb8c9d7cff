"""Tables that take a run apart: what its memory holds, where its efficiency goes, how long its pipeline is idle, and
why runs have no result."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.rows.usage import HELD
from hpcpar.analysis.scaling.factors import Factors
from hpcpar.analysis.scaling.pipelines import Bubble
from hpcpar.analysis.scaling.series import split
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text.numbers import NOTHING, memory, number
from hpcpar.analysis.text.sheet import Sheet

MEMORY_SAID = (
    "What a rank holds after its last step, of the rank that holds most of it, in the run that holds most. Each column "
    "is a maximum of its own: they need not add up to the peak."
)


FACTORS_SAID = [
    "Efficiency here counts waits for data. It is the product of the other columns, each over that of the baseline.",
    "A diagnosis without intervals. Ranks that wait for each other inside a step share its time, so that balance is at "
    "best; the pipeline is its schedule's formula; what nobody measured is in the last column.",
]


def memory_sheet(tables: Sequence[Table]) -> Sheet | None:
    """Lay out what the memory of a rank holds, by strategy and size; None where no run counted it."""
    body = []
    for table in tables:
        for series in split(table.rows):
            for nodes in sorted(series.rows):
                rows = series.usable(nodes)
                held = [_most(getattr(row, f"memory_{what}_bytes") for row in rows) for what in HELD]
                if any(held):
                    peaks = [_most(row.peak_device_bytes for row in rows), _most(row.peak_memory_bytes for row in rows)]
                    label = [table.key.study, table.key.work, series.label, str(nodes)]
                    body.append([*label, *map(memory, (*held, *peaks))])
    if not body:
        return None
    heads = ["study", "workload", "strategy", "nodes", *HELD, "peak of the device", "peak of the process"]
    return _without_empty(heads, body, {"study", "workload", "strategy"})


def factors_sheet(found: Sequence[Factors]) -> Sheet:
    """Lay out what efficiency is made of, in percent."""
    shares = [
        "efficiency",
        "waits for data",
        "balance",
        "pipeline",
        "exposed communication",
        "computation and the rest",
    ]
    heads = ["table", "strategy", "nodes", *shares]
    body = [
        [
            *(one.where, one.series, str(one.nodes), _percent(one.efficiency), _percent(one.data)),
            *(_percent(one.balance), _percent(one.pipeline), _percent(one.communication), _percent(one.rest)),
        ]
        for one in found
    ]
    return _without_empty(heads, body, {"table", "strategy"})


def bubble_sheet(found: Sequence[Bubble]) -> Sheet:
    """Lay out what share of a step the ranks of a pipeline are idle."""
    heads = ["table", "strategy", "nodes", "schedule", "ranks p", "stages a rank v", "micro-batches m", "bubble (%)",
             "of a step (ms)", "micro-batches for 10 %"]  # fmt: skip
    body = [
        [
            *(one.where, one.series, str(one.nodes), one.schedule, str(one.ranks), str(one.stages_a_rank)),
            *(str(one.micro_batches), _bubble(one)),
            NOTHING if one.share is None or one.step_time_s is None else number(1000 * one.share * one.step_time_s),
            NOTHING if one.micro_batches_for_tenth is None else str(one.micro_batches_for_tenth),
        ]
        for one in found
    ]
    return _without_empty(heads, body, {"table", "strategy", "schedule"})


def failure_sheet(rows: Sequence[Row]) -> Sheet | None:
    """Count the runs that failed by their cause; None where none did."""
    by_cause: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.state == "failed":
            by_cause[row.cause or "no cause known"].append(row)
    if not by_cause:
        return None
    body = []
    for cause, found in sorted(by_cause.items(), key=lambda one: (-len(one[1]), one[0])):
        where: dict[tuple[str, int], int] = defaultdict(int)
        for row in found:
            where[row.strategy, row.nodes] += 1
        places = [f"{strategy}@{nodes}: {count}" for (strategy, nodes), count in sorted(where.items())]
        hours = [row.measured_node_h for row in found if row.measured_node_h is not None]
        body.append([cause, str(len(found)), "; ".join(places), number(math.fsum(hours)) if hours else NOTHING])
    return Sheet(["cause", "runs", "strategy@nodes: runs", "node-hours"], body, {0, 2})


def bubble_facts(found: Sequence[Bubble]) -> list[str]:
    """Say where the shares come from."""
    said = [
        "The bubble is the share of a step in which a rank of the pipeline has nothing to do, by the formula of its "
        "schedule with passes of equal time; it is computed, not measured."
    ]
    if any(one.bound and one.share for one in found):
        said.append("At least: torch's order of this schedule has no formula; it is one of fewer stages.")
    if any(one.share is None for one in found):
        said.append("Schedules without a formula have no number.")
    return said


def _bubble(one: Bubble) -> str:
    if one.share is None:
        return "no formula"
    return f"{'at least ' if one.bound else ''}{number(100 * one.share, 3)}"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f}"


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value), default=None)


def _without_empty(heads: list[str], body: list[list[str]], words: set[str]) -> Sheet:
    """Leave out columns in which nothing is known, and names that are the same in every row."""
    named = ("study", "workload", "table")
    shown = [
        place
        for place, head in enumerate(heads)
        if any(line[place] != NOTHING for line in body)
        and not (head in named and len({line[place] for line in body}) == 1)
    ]
    left = {number for number, place in enumerate(shown) if heads[place] in words}
    return Sheet([heads[place] for place in shown], [[line[place] for place in shown] for line in body], left)
