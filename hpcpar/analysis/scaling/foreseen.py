"""What the plan expected of the runs, beside what was measured."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.text.numbers import NOTHING, memory, number
from hpcpar.analysis.text.sheet import Sheet


class Foreseen(Struct, frozen=True, kw_only=True):
    """One strategy and size: means over its runs."""

    strategy: str
    nodes: int
    mesh: str
    runs: int
    step_time_s: float
    predicted_step_s: float
    naive_step_s: float | None
    peak_bytes: int | None
    """The largest of any rank: of the device, or on CPUs of the process, which is more than its tensors."""
    predicted_bytes: int | None

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted_step_s / self.step_time_s - 1

    @property
    def naive_error(self) -> float | None:
        """The same of the estimate with constant efficiency."""
        return None if self.naive_step_s is None else self.naive_step_s / self.step_time_s - 1


def foreseen(rows: Iterable[Row]) -> tuple[Foreseen, ...]:
    """Put predictions beside measurements, a line for runs that differ in their repeat only."""
    cells: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.predicted_step_s and row.step_time_s:
            cells[row.study, row.strategy, row.strategy_options, row.nodes, row.mesh, row.workload_options].append(row)
    return tuple(_cell(cells[key]) for key in sorted(cells))


def _cell(rows: list[Row]) -> Foreseen:
    first = rows[0]
    naive = [row.predicted_naive_s for row in rows if row.predicted_naive_s]
    peaks = [peak for row in rows if (peak := row.peak_device_bytes or row.peak_memory_bytes)]
    return Foreseen(
        strategy=first.strategy,
        nodes=first.nodes,
        mesh=first.mesh,
        runs=len(rows),
        step_time_s=statistics.fmean(row.step_time_s or 0.0 for row in rows),
        predicted_step_s=statistics.fmean(row.predicted_step_s or 0.0 for row in rows),
        naive_step_s=statistics.fmean(naive) if naive else None,
        peak_bytes=max(peaks, default=None),
        predicted_bytes=first.predicted_bytes,
    )


def sheet(found: Iterable[Foreseen]) -> Sheet:
    """Lay them out."""
    heads = ["strategy", "nodes", "mesh", "runs", "step (ms)", "predicted (ms)", "off (%)", "naive off (%)",
             "peak memory a rank", "tensors predicted"]  # fmt: skip
    body = [
        [
            *(one.strategy, str(one.nodes), one.mesh, str(one.runs)),
            *(number(one.step_time_s * 1000), number(one.predicted_step_s * 1000)),
            *(_percent(one.error), _percent(one.naive_error)),
            *(memory(one.peak_bytes), memory(one.predicted_bytes)),
        ]
        for one in found
    ]
    return Sheet(heads, body, {0, 2})


def summary(found: Iterable[Foreseen]) -> str:
    """Say how far off the predictions were over all, beside the naive ones."""
    cells = list(found)
    ours = statistics.fmean(abs(one.error) for one in cells)
    naive = [abs(one.naive_error) for one in cells if one.naive_error is not None]
    beside = f"; with constant efficiency {statistics.fmean(naive):.0%}" if naive else ""
    return f"Mean error of the step time: {ours:.0%}{beside}. A process needs more than its tensors (docs/plan.md)."


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value * 100:+.1f}"
