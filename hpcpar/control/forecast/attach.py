"""What submit does with a forecast: refuses what cannot fit, chooses time limits, writes down what is expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from hpcpar.control.forecast import price
from hpcpar.control.forecast.forecast import Forecast, Row, forecast
from hpcpar.control.forecast.past import SCHEMA
from hpcpar.control.plan import Plan, PlannedRun
from hpcpar.errors import InputError, Problem
from hpcpar.profile import ClusterProfile
from hpcpar.runs import StudyFolder
from hpcpar.spec import Study
from hpcpar.units import human_duration, human_memory


def attach(
    plan: Plan,
    study: Study,
    profile: ClusterProfile,
    where: str,
    *,
    studies: Sequence[StudyFolder],
    force: bool,
    trace: bool = True,
) -> Plan:
    """Return the plan with a prediction in every run; nothing of that is part of a run's key.

    Raises:
        InputError: the tensors of a rank alone need more than its memory, and nobody insists.
    """
    found = forecast(study, profile, where, studies=studies, trace=trace)
    rows = {row.key: row for row in found.rows}
    problems = [] if force else list(_too_large(found, where))
    if problems:
        raise InputError(problems)
    runs = tuple(_with(run, rows.get(_first_of(run)), found, profile) for run in plan.runs)
    return plan._replace(runs=runs, warnings=(*plan.warnings, *dict.fromkeys(_cut_off(runs, where))))


def _cut_off(runs: Sequence[PlannedRun], where: str) -> Iterator[Problem]:
    """Yield each cell whose time limit is expected to end it, with nothing saved."""
    for spec, resources in runs:
        expected_s = spec.prediction.get("run_s")
        if expected_s is None or expected_s <= resources.time_s or resources.checkpoint is not None:
            continue
        nodes = spec.identity.nodes
        label = f"{where}: strategy {spec.identity.strategy} on {nodes} node{'s' * (nodes > 1)}"
        needs, has = human_duration(expected_s), human_duration(resources.time_s)
        what = f"is expected to take {needs}: its time limit of {has} would kill it before its end"
        yield Problem(label, what, "a longer --time, or --checkpoint-every STEPS and `hpcpar resubmit`")


def _first_of(run: PlannedRun) -> str:
    """Return the name of the first repeat: a forecast looks at every cell once."""
    identity = msgspec.structs.replace(run.spec.identity, repeat=1)
    return f"{identity.key()}-r1"


def _too_large(found: Forecast, where: str) -> Iterator[Problem]:
    for row in found.rows:
        if row.fits == "no" and row.need is not None and row.capacity_bytes is not None:
            label = f"{where}: strategy {row.strategy} on {row.nodes} node{'s' * (row.nodes > 1)}"
            need, have = human_memory(row.need.total), human_memory(row.capacity_bytes)
            what = f"does not fit: its tensors need {need} a rank, there are {have} ({row.reason})"
            change = f"{row.change.flags}, or " if row.change is not None else ""
            yield Problem(label, what, f"{change}--force to submit it all the same; `hpcpar plan` shows what fits")


def _with(run: PlannedRun, row: Row | None, found: Forecast, profile: ClusterProfile) -> PlannedRun:
    node_type = profile.node_types[run.spec.identity.node_type]
    each = price.factor(profile, node_type, run.resources)
    billing = {"unit": profile.charge_unit, "units_per_node_hour": each}
    limit_s = row.limit_s if row is not None else run.resources.time_s
    spec = msgspec.structs.replace(
        run.spec, billing=billing, prediction=prediction(row, found) if row else {}, time_s=limit_s
    )
    memory = run.resources.memory or (row.memory_request if row is not None else "")
    return PlannedRun(spec, msgspec.structs.replace(run.resources, time_s=limit_s, memory=memory))


def prediction(row: Row, found: Forecast) -> dict[str, object]:
    """Return what stands in a run's spec.json: `collect` puts it beside what was measured."""
    if row.need is None and row.time is None:
        return {}
    noted: dict[str, object] = {"schema": SCHEMA, "calibrated_with": found.calibrated_with}
    if row.need is not None:
        noted["memory_bytes"] = round(row.need.total)
    if row.memory_request:
        noted["memory_request"] = row.memory_request
    if row.time is not None and row.run_s is not None:
        noted["step_s"] = {key: getattr(row.time, key) for key in ("expected", "low", "high", "naive")}
        noted["run_s"] = row.run_s
    if row.work is not None:
        noted["work"] = msgspec.to_builtins(row.work)
    return noted
