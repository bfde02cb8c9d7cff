"""Every cell of a study: does it fit, how long does it take, what does it cost, and what would make it fit."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from time import time as seconds_now
from typing import Any

import msgspec
from msgspec import Struct

from hpcpar import registry
from hpcpar.control.forecast import price
from hpcpar.control.forecast.advice import Change, cheapest_change, variants_of
from hpcpar.control.forecast.allocation import time_left
from hpcpar.control.forecast.ask import Shapes, ask
from hpcpar.control.forecast.children import family
from hpcpar.control.forecast.clock import Time, step_time
from hpcpar.control.forecast.engines import delays
from hpcpar.control.forecast.job import Job, capacity_of, clock_of, limit_of, memory_request
from hpcpar.control.forecast.layout import SHAPED, Layout, host_cpus, layout_of
from hpcpar.control.forecast.memory import Need, need, verdict
from hpcpar.control.forecast.past import look_back
from hpcpar.control.forecast.price import Price
from hpcpar.control.forecast.work import Work, work
from hpcpar.control.plan import PlannedRun, Survey, survey
from hpcpar.control.planning import lengths
from hpcpar.errors import InputError, Problem
from hpcpar.profile import ClusterProfile
from hpcpar.runs import StudyFolder
from hpcpar.shapes import Case, Model
from hpcpar.spec import Identity, Study

START_S = 60.0
"""Of a run before its first step, where no finished run of this cluster says how long that takes (assumed)."""


class Row(Struct, frozen=True, kw_only=True):
    """What is expected of one cell."""

    strategy: str
    mesh: str
    nodes: int
    ranks: int
    micro_batch: int
    grad_accum: int
    global_batch: int
    options: dict[str, Any]
    """Those of the strategy that differ from their defaults."""
    key: str
    fits: str
    """"yes", "tight" (with the margin it does not), "no", "unknown"."""
    reason: str
    need: Need | None = None
    need_bytes: float | None = None
    """All of it together."""
    capacity_bytes: float | None = None
    time: Time | None = None
    work: Work | None = None
    run_s: float | None = None
    """From start to end: the start, and all steps."""
    run_high_s: float | None = None
    price: Price | None = None
    """Expected, of one run."""
    worst: Price
    """Of one run of which every job takes all of its time limit."""
    limit_s: float
    memory_request: str = ""
    """What a job asks of a node where nobody said: enough to fit for certain. "": nothing is asked."""
    change: Change | None = None
    """What would make it fit."""
    learns_otherwise: str = ""
    """In which way updates are delayed; "" where they are those of one process."""
    jobs: int = 1
    """How many jobs it takes, with checkpoints, where the queue allows less time than it needs."""
    too_late: bool = False
    """It would not end before the allocation does if it began now."""


class Unfit(Struct, frozen=True, kw_only=True):
    """A cell that the rules of composition, the batch or the cluster refuse."""

    strategy: str
    mesh: str
    nodes: int
    what: str
    fix: str


class Forecast(Struct, frozen=True, kw_only=True):
    """The answer of `hpcpar plan`."""

    study: str
    cluster: str
    node_type: str
    workload: str
    steps: int
    repeats: int
    rows: tuple[Row, ...]
    """Those that fit first, the soonest to finish first."""
    refused: tuple[Unfit, ...]
    charge_unit: str
    notes: tuple[str, ...]
    calibrated_with: int
    """Finished cells of this cluster that the times are fitted to; 0: none."""
    allocation_ends: str = ""
    allocation_left_s: float | None = None


def forecast(
    study: Study,
    profile: ClusterProfile,
    where: str,
    *,
    studies: Sequence[StudyFolder] = (),
    trace: bool = True,
    advise: bool = True,
    version: str = "",
    now: float | None = None,
) -> Forecast:
    """Forecast every cell of a study.

    Args:
        study: what to run.
        profile: where to run it.
        where: the study's file, or "flags"; stands in messages.
        studies: whose finished runs say how fast this cluster is.
        trace: whether a child process may be started to read shapes off the model.
        advise: whether to look for changes that make a cell fit.
        version: the version of hpcpar.
        now: seconds since 1970, for the days that are left; not given: the clock's.

    Raises:
        InputError: with every problem that all cells have.
    """
    now = seconds_now() if now is None else now
    variants = _surveys(study, profile, where, version)
    kind = study.node_type or profile.default_node_type
    node_type = profile.node_types[kind]
    past = look_back(studies, profile, kind, trace=trace)
    job = Job(study=study, profile=profile, node_type=node_type, past=past, trace=trace, left_s=time_left(profile, now))
    notes: list[str] = []
    with family():
        rows = [row for found in variants for row in _rows(found, job, notes, advise=advise)]
    refused = tuple(
        Unfit(
            strategy=one.choice.name, mesh=one.choice.mesh, nodes=one.nodes, what=one.problem.what, fix=one.problem.fix
        )
        for found in variants
        for one in found.refused
    )
    return Forecast(
        study=study.name,
        cluster=profile.name,
        node_type=kind,
        workload=study.workload,
        steps=lengths.steps(study, variants[0].declared),
        repeats=lengths.repeats(study),
        rows=tuple(sorted(rows, key=_rank)),
        refused=refused,
        charge_unit=profile.charge_unit,
        notes=tuple(dict.fromkeys([*notes, *past.notes])),
        calibrated_with=max((clock.runs for clock in job.clocks.values() if clock is not None), default=0),
        allocation_ends=profile.allocation.ends,
        allocation_left_s=job.left_s,
    )


def _surveys(study: Study, profile: ClusterProfile, where: str, version: str) -> list[Survey]:
    """Look at every variant of the study; say of all of them what is wrong."""
    found: list[Survey] = []
    problems: list[Problem] = []
    for one in study.by_variant():
        try:
            found.append(survey(one, profile, where, version=version))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return found


def _rank(row: Row) -> tuple[int, bool, float, float]:
    order = {"yes": 0, "tight": 1, "unknown": 2, "no": 3}
    return order[row.fits], row.too_late, row.run_s if row.run_s is not None else float("inf"), row.worst.node_hours


def _rows(found: Survey, job: Job, notes: list[str], *, advise: bool) -> list[Row]:
    gpu = job.node_type.gpus_per_node > 0
    cpus = host_cpus(job.profile)
    laid = [(run, layout_of(run.spec.identity, gpu, cpus)) for run in found.runs]
    cases = [case for _, layout in laid if isinstance(layout, Layout) for case in (layout.case, plain(layout))]
    if found.declared.kind not in SHAPED:
        notes.append(f"memory and time: a workload of the kind '{found.declared.kind}' has no shapes to read")
        cases = []
    shapes: Shapes | str = "nothing to trace"
    if cases:
        first = found.runs[0].spec.identity
        shapes = ask(_named(found.runs[0]), first.workload_options, cases, trace=job.trace)
        if isinstance(shapes, str):
            notes.append(f"memory and time are not known: {shapes}")
    rows = [_row(run, layout, shapes, job, notes) for run, layout in laid]
    if advise and not isinstance(shapes, str):
        rows = _advised(rows, laid, found, job)
    return rows


def plain(layout: Layout) -> Case:
    """Return the case of one rank that computes everything once: what useful operations are counted by."""
    return Case(precision=layout.case.precision, capacity=layout.case.capacity, gpu=layout.gpu)


def _named(run: PlannedRun) -> str:
    return run.spec.workload_file or run.spec.identity.workload


def _row(run: PlannedRun, layout: Layout | str, shapes: Shapes | str, job: Job, notes: list[str]) -> Row:
    identity, limit_s = run.spec.identity, limit_of(job.study, run, job.profile, None)
    each = price.factor(job.profile, job.node_type, run.resources)
    common: dict[str, Any] = {
        "strategy": identity.strategy,
        "mesh": identity.mesh.label(),
        "nodes": identity.nodes,
        "ranks": identity.world_size,
        "micro_batch": identity.micro_batch,
        "grad_accum": identity.grad_accum,
        "global_batch": identity.global_batch,
        "options": changed_options(identity),
        "key": run.spec.run_name,
        "worst": price.price(identity.nodes, limit_s, each),
        "limit_s": limit_s,
    }
    model = shapes if isinstance(shapes, str) else _model(layout, shapes)
    if isinstance(model, str) or isinstance(layout, str) or isinstance(shapes, str):
        return Row(fits="unknown", reason=layout if isinstance(layout, str) else str(model), **common)
    needed = need(model, layout, shapes.answer)
    capacity = capacity_of(job, run.resources)
    todo = work(model, shapes.models[plain(layout)], layout, shapes.answer)  # type: ignore[arg-type]
    clock = clock_of(job, layout, identity)
    time = step_time(todo, clock, identity.world_size) if clock is not None else None
    if clock is None:
        notes.append(
            f"times are not known: no peak of '{job.node_type.accelerator}' in {layout.case.precision} is known"
        )
    start = job.past.start_s if job.past.start_s is not None else START_S
    run_s = start + identity.steps * time.expected if time else None
    run_high_s = start + identity.steps * time.high if time else None
    limit_s = limit_of(job.study, run, job.profile, run_high_s)
    jobs = math.ceil(run_s / limit_s) if run_s is not None else 1
    common |= {"limit_s": limit_s, "worst": price.price(identity.nodes, limit_s, each).times(jobs), "jobs": jobs}
    row = Row(
        fits=verdict(needed, capacity, gpu=layout.gpu),
        reason=_reason(needed, capacity, time, layout),
        need=needed,
        need_bytes=needed.total,
        capacity_bytes=capacity,
        time=time,
        work=todo,
        run_s=run_s,
        run_high_s=run_high_s,
        price=price.price(identity.nodes, run_s, each) if run_s is not None else None,
        memory_request=memory_request(run, needed, job),
        learns_otherwise=delays(layout.beside),
        too_late=run_s is not None and job.left_s is not None and run_s > job.left_s,
        **common,
    )
    return msgspec.structs.replace(row, reason="; ".join([*_remarks(row, job), row.reason]))


def _remarks(row: Row, job: Job) -> Iterator[str]:
    """Yield what a person must know before what a step is made of."""
    if row.too_late:
        yield f"cannot end before the allocation does ({job.profile.allocation.ends})"
    if row.jobs > 1:
        yield f"longer than the time limit: {row.jobs} jobs, with checkpoints"
    if row.learns_otherwise:
        yield row.learns_otherwise


def _model(layout: Layout | str, shapes: Shapes) -> Model | str:
    if isinstance(layout, str):
        return layout
    found, useful = shapes.models[layout.case], shapes.models[plain(layout)]
    return useful if isinstance(useful, str) else found


def changed_options(identity: Identity) -> dict[str, Any]:
    """Return the options of a run's strategy that are not its defaults; the mesh is told elsewhere."""
    defaults = msgspec.to_builtins(registry.get_strategy(identity.strategy).Options())
    return {k: v for k, v in identity.strategy_options.items() if v != defaults.get(k) and k != "mesh"}


def _reason(needed: Need, capacity: float | None, time: Time | None, layout: Layout) -> str:
    if capacity is not None and verdict(needed, capacity, gpu=layout.gpu) != "yes":
        parts = {
            name: getattr(needed, name) for name in ("parameters", "gradients", "moments", "activations", "buffers")
        }
        most = max(parts, key=lambda name: parts[name])
        return f"{parts[most] / 2**30:.1f} GiB of {most} at its worst moment, {needed.moment}"
    if time is None:
        return "no rate is known"
    shares = sorted(time.shares.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{share:.0%} {name}" for name, share in shares[:3] if share >= 0.01)


def _advised(rows: list[Row], laid: list[tuple[PlannedRun, Layout | str]], found: Survey, job: Job) -> list[Row]:
    """Look for the cheapest change of every cell that does not fit; all shapes are asked for at once."""
    wanted: dict[str, tuple[Layout, Identity, list[Layout]]] = {}
    for row, (run, layout) in zip(rows, laid, strict=True):
        if row.fits in {"no", "tight"} and isinstance(layout, Layout):
            wanted[row.key] = layout, run.spec.identity, list(variants_of(layout, found.declared))
    cases = [case for _, _, several in wanted.values() for one in several for case in (one.case, plain(one))]
    if not cases:
        return rows
    first = found.runs[0]
    shapes = ask(_named(first), first.spec.identity.workload_options, cases, trace=job.trace)
    if isinstance(shapes, str):
        return rows
    made = []
    for row in rows:
        if row.key in wanted and row.capacity_bytes is not None:
            layout, identity, several = wanted[row.key]
            time_of = functools.partial(_time_of, job, identity)
            change = cheapest_change(layout, several, row.capacity_bytes, shapes, time_of)
            row = msgspec.structs.replace(row, change=change)  # noqa: PLW2901
        made.append(row)
    return made


def _time_of(job: Job, identity: Identity, layout: Layout, shapes: Shapes) -> float | None:
    clock, model, useful = clock_of(job, layout, identity), shapes.models[layout.case], shapes.models[plain(layout)]
    if clock is None or isinstance(model, str) or isinstance(useful, str):
        return None
    return step_time(work(model, useful, layout, shapes.answer), clock, identity.world_size).expected
