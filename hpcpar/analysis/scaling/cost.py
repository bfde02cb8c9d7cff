"""What the runs cost, failed ones included: by their own records, and as the scheduler's accounting bills them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, fields

from hpcpar.analysis.rows.reduce import Row


class Cost(Struct, frozen=True, kw_only=True):
    """All runs of one strategy and size of a study. Sums over runs; None: not known of any."""

    study: str
    cluster: str
    workload: str
    strategy: str
    nodes: int
    runs: int
    """That have been sent to the machine."""
    runs_without_result: int
    runs_accounted: int
    """Of which accounting knows every job."""
    measured_node_h: float | None
    """From the first rank's start to the last word of each attempt, times nodes."""
    lost_node_h: float | None
    """Of these, what went into runs without a result."""
    billed_node_h: float | None
    """What accounting says that jobs held, from allocation to release, every start of them: of runs_accounted."""
    billed_device_h: float | None
    """Devices as the scheduler counts them; None where nodes have none."""
    billed_units: float | None
    """Node-hours by the site's rule, in billing_unit; None where the profile does not say it."""
    billing_unit: str
    billed_over_measured: float | None
    """Of runs of which both are known."""
    accounted_peak_bytes: int | None
    """MaxRSS: the largest of any task."""
    accounted_energy_j: float | None
    """ConsumedEnergy; only where it is known of every accounted run."""


def costs(rows: Sequence[Row]) -> tuple[Cost, ...]:
    """Add up what runs cost, a line for each strategy and size."""
    cells: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.nodes and (row.attempts or row.billed_node_h is not None):
            cells[row.study, row.cluster, _work(row), row.strategy, row.nodes].append(row)
    return tuple(_cost(cells[key]) for key in sorted(cells))


def cost_records(found: Sequence[Cost]) -> list[dict[str, Any]]:
    """Return flat records, in full precision."""
    return [asdict(one) for one in found]


def cost_names() -> list[str]:
    """Return the names of a flat record in order."""
    return [field.name for field in fields(Cost)]


def _cost(rows: list[Row]) -> Cost:
    first = rows[0]
    accounted = [row for row in rows if row.billed_node_h is not None]
    both = [row for row in accounted if row.measured_node_h]
    measured_both = _sum(row.measured_node_h for row in both)
    billed_both = _sum(row.billed_node_h for row in both)
    energies = [row.accounted_energy_j for row in accounted]
    units = {row.billing_unit for row in accounted}
    return Cost(
        study=first.study,
        cluster=first.cluster,
        workload=_work(first),
        strategy=first.strategy,
        nodes=first.nodes,
        runs=len(rows),
        runs_without_result=sum(not row.usable for row in rows),
        runs_accounted=len(accounted),
        measured_node_h=_sum(row.measured_node_h for row in rows),
        lost_node_h=_sum(row.measured_node_h for row in rows if not row.usable),
        billed_node_h=_sum(row.billed_node_h for row in accounted),
        billed_device_h=_sum(row.billed_device_h for row in accounted),
        billed_units=_sum(row.billed_units for row in accounted) if len(units) == 1 else None,
        billing_unit=units.pop() if len(units) == 1 else "",
        billed_over_measured=billed_both / measured_both if billed_both is not None and measured_both else None,
        accounted_peak_bytes=max((row.accounted_peak_bytes or 0 for row in accounted), default=0) or None,
        accounted_energy_j=None if None in energies else _sum(energies),
    )


def _work(row: Row) -> str:
    return f"{row.workload} ({row.variant})" if row.variant else row.workload


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None
