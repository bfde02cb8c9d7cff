"""What a run used by its own word, and what the scheduler's accounting charged for it: side by side in every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcpar.charge import held_s, in_units, node_hours, units_per_node_hour
from hpcpar.records import LONGEST_S, RunRecord
from hpcpar.runs import RunFolder
from hpcpar.spec import Accounting, RunSpec

_LARGEST = 1e15
"""Numbers beyond this are damage."""


def columns(folder: RunFolder, spec: RunSpec, record: RunRecord | None, attempts: Sequence[str]) -> dict[str, Any]:
    """Return what was measured, and what was billed where accounting knows every job of the run."""
    spans = {name: held_s(folder.events(name).records) for name in attempts}
    if record is not None:
        spans[record.attempt] = max(spans.get(record.attempt, 0.0), record.wall_s or 0.0)
    seconds = sum(spans.values())
    found: dict[str, Any] = {}
    if spans and 0 <= seconds <= LONGEST_S:
        found["measured_node_h"] = node_hours(spec.identity.nodes, seconds)
    accounts = accounts_of(folder)
    return found | billed(accounts, spec) if accounts else found


def accounts_of(folder: RunFolder) -> list[Accounting]:
    """Return what accounting says of each of the run's jobs; nothing where it is silent of one, or says nonsense."""
    lines = folder.submissions()
    said = {line.job_id: line.accounting for line in lines if line.kind == "accounted" and line.accounting is not None}
    found = [said.get(line.job_id) for line in lines if line.kind == "submitted"]
    known = [one for one in found if one is not None and one.state and _is_possible(one)]
    return known if len(known) == len(found) else []


def billed(accounts: list[Accounting], spec: RunSpec) -> dict[str, Any]:
    """Return the columns of accounting; memory and energy only where every job has them."""
    hours = node_hours(1, sum(one.node_s for one in accounts))
    peaks = [one.peak_memory_bytes for one in accounts if one.peak_memory_bytes]
    energies = [one.energy_j for one in accounts if one.energy_j]
    units = in_units(hours, units_per_node_hour(spec.billing))
    unit = spec.billing.get("unit")
    return {
        "accounted_state": accounts[-1].state,
        "accounted_elapsed_s": sum(one.elapsed_s for one in accounts),
        "accounted_nodes": accounts[-1].nodes,
        "accounted_peak_bytes": max(peaks, default=None),
        "accounted_energy_j": sum(energies) if len(energies) == len(accounts) else None,
        "billed_node_h": hours,
        "billed_device_h": hours * spec.gpus_per_node if spec.gpus_per_node else None,
        "billed_units": units,
        "billing_unit": unit if units is not None and isinstance(unit, str) else "",
    }


def _is_possible(one: Accounting) -> bool:
    numbers = (one.elapsed_s, one.node_s, one.nodes, one.peak_memory_bytes or 0, one.energy_j or 0.0)
    return all(0 <= number <= _LARGEST for number in numbers)
