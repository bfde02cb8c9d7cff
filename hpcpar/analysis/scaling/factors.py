"""What efficiency is made of: waits for data, balance of ranks, the pipeline's bubble, and the rest.

After the POP hierarchy (co-design.pop-coe.eu/metrics), with what a step's record holds. Each factor is that of a row
over that of its baseline, so that their product is the efficiency, waits for data included.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from msgspec import Struct

from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.pipelines import bubble_of
from hpcpar.analysis.scaling.table import Cell, Table


class Factors(Struct, frozen=True, kw_only=True):
    """One row of a scaling table against its baseline. Shares; None: not known of every run of both."""

    study: str
    workload: str
    scaling: str
    series: str
    nodes: int
    baseline: str
    efficiency: float
    """Samples a second and rank, waits for samples counted, over those of the baseline."""
    data: float
    """T / (T + d), T the step time and d the wait for samples."""
    balance: float | None
    """Time of the mean rank over time of the slowest one."""
    pipeline: float | None
    """1 - bubble, by the schedule's formula; None where neither has a pipeline, or a formula is missing."""
    communication: float | None
    """1 - exposed communication over the step time; None where nobody measured it."""
    rest: float
    """What is left: computation that became slower, and whatever of the above is not known."""

    @property
    def where(self) -> str:
        """The table that it belongs to."""
        return f"{self.study}, {self.workload}, {self.scaling}"


def factors(tables: Sequence[Table]) -> tuple[Factors, ...]:
    """Return the factors of every row that has an efficiency and is no baseline."""
    found = [_factors(table, cell) for table in tables for cell in table.cells if not cell.is_baseline]
    return tuple(one for one in found if one is not None)


def _factors(table: Table, cell: Cell) -> Factors | None:
    reference = next((one for one in table.references if one.name == cell.baseline), None)
    rows = [row for row in table.rows if row.usable and _is_of(row, cell)]
    if cell.efficiency is None or reference is None or not rows:
        return None
    both = (rows, reference.rows)
    efficiency, data = _ratio(both, _rate), _ratio(both, _data)
    if efficiency is None or data is None:
        return None
    balance = _ratio(both, lambda row: row.load_balance)
    communication = _ratio(both, _communication)
    pipeline = _pipeline(table, cell, reference.rows[0])
    known = [factor for factor in (data, balance, pipeline, communication) if factor is not None]
    return Factors(
        study=table.key.study,
        workload=table.key.work,
        scaling=table.key.scaling,
        series=cell.series,
        nodes=cell.nodes,
        baseline=cell.baseline,
        efficiency=efficiency,
        data=data,
        balance=balance,
        pipeline=pipeline,
        communication=communication,
        rest=efficiency / math.prod(known),
    )


def _is_of(row: Row, cell: Cell) -> bool:
    mine = (row.strategy, row.strategy_options, row.nodes, row.mesh, row.global_batch, row.micro_batch)
    return mine == (cell.strategy, cell.strategy_options, cell.nodes, cell.mesh, cell.global_batch, cell.micro_batch)


def _ratio(both: tuple[Sequence[Row], Sequence[Row]], of: Callable[[Row], float | None]) -> float | None:
    """Return the geometric mean over these runs over that of the baseline's; None where one of them is not known."""
    means = []
    for rows in both:
        values = [of(row) for row in rows]
        known = [math.log(value) for value in values if value is not None and value > 0]
        if len(known) < len(values) or not known:
            return None
        means.append(statistics.fmean(known))
    return math.exp(means[0] - means[1])


def _between_begins_s(row: Row) -> float | None:
    return None if row.step_time_s is None else row.step_time_s + (row.data_wait_s or 0.0)


def _rate(row: Row) -> float | None:
    step_s = _between_begins_s(row)
    return None if step_s is None else row.global_batch / step_s / row.ranks


def _data(row: Row) -> float | None:
    step_s = _between_begins_s(row)
    return None if step_s is None or row.step_time_s is None else row.step_time_s / step_s


def _communication(row: Row) -> float | None:
    exposed_s = row.exposed_communication_s
    return None if exposed_s is None or row.step_time_s is None else 1 - exposed_s / row.step_time_s


def _pipeline(table: Table, cell: Cell, base: Row) -> float | None:
    of_base = next((one for one in table.cells if _is_of(base, one)), None)
    mine, theirs = bubble_of(table, cell), None if of_base is None else bubble_of(table, of_base)
    if of_base is None or (mine is None and theirs is None):
        return None
    shares = [0.0 if one is None else one.share for one in (mine, theirs)]
    return None if None in shares else (1 - (shares[0] or 0.0)) / (1 - (shares[1] or 0.0))
