"""What the runs cost, for a reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hpcpar.analysis.scaling.cost import Cost
from hpcpar.analysis.text.numbers import NOTHING, memory, number
from hpcpar.analysis.text.sheet import Sheet

UNKNOWN = "not known"
_KWH_J = 3.6e6


def cost_sheet(found: Sequence[Cost]) -> Sheet:
    """Lay out what was measured beside what was billed; columns of which nothing is known are left out."""
    unit = next((one.billing_unit for one in found if one.billing_unit), "")
    columns: list[tuple[str, Callable[[Cost], str]]] = [
        ("study", lambda one: one.study),
        ("workload", lambda one: one.workload),
        ("strategy", lambda one: one.strategy),
        ("nodes", lambda one: str(one.nodes)),
        ("runs", lambda one: str(one.runs)),
        ("measured (node-h)", lambda one: number(one.measured_node_h)),
        ("of it lost", lambda one: number(one.lost_node_h)),
        ("accounted", lambda one: f"{one.runs_accounted}/{one.runs}"),
        ("billed (node-h)", lambda one: UNKNOWN if one.billed_node_h is None else number(one.billed_node_h)),
        ("billed (device-h)", lambda one: number(one.billed_device_h)),
        (f"billed ({unit})", lambda one: NOTHING if unit == "node-hours" else number(one.billed_units)),
        ("billed / measured", lambda one: number(one.billed_over_measured, 3)),
        ("MaxRSS", lambda one: memory(one.accounted_peak_bytes)),
        ("energy (kWh)", lambda one: number(None if (j := one.accounted_energy_j) is None else j / _KWH_J)),
    ]
    if len({(one.study, one.workload) for one in found}) == 1:
        columns = columns[2:]
    shown = [(head, show) for head, show in columns if any(show(one) != NOTHING for one in found)]
    words = {place for place, (head, _) in enumerate(shown) if head in ("study", "workload", "strategy")}
    return Sheet([head for head, _ in shown], [[show(one) for _, show in shown] for one in found], words)


def cost_facts(found: Sequence[Cost]) -> list[str]:
    """Say what is counted, what all of it comes to, and what is not known."""
    runs, accounted = sum(one.runs for one in found), sum(one.runs_accounted for one in found)
    measured = [one.measured_node_h for one in found if one.measured_node_h is not None]
    lost = [one.lost_node_h for one in found if one.lost_node_h is not None]
    said = [
        f"Measured: {number(math.fsum(measured))} node-hours, from the first rank's start to the last word of each "
        f"attempt; {number(math.fsum(lost)) if lost else 'none'} of them in runs without a result."
    ]
    if not accounted:
        return [*said, "Billed: not known. There is no scheduler's accounting of these runs, or it was not asked."]
    billed = math.fsum(one.billed_node_h for one in found if one.billed_node_h is not None)
    silent = f" Of {runs - accounted} runs it is not known." if accounted < runs else ""
    return [
        *said,
        f"Billed: {number(billed)} node-hours by the scheduler's accounting, whole allocations with every start of a "
        f"job.{silent}",
    ]
