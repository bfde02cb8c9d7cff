"""Turn a study and a cluster profile into runs, or into the list of everything that is wrong with them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from hpcpar import workload_files
from hpcpar.control.planning import lengths, pairing
from hpcpar.control.planning.grid import Cell, all_limits, cell_of, cells_of, resources_of
from hpcpar.control.planning.limits import limit_problems
from hpcpar.control.planning.names import Place, Resolved, place_of, resolve, text_problems, twins
from hpcpar.errors import InputError, Problem
from hpcpar.profile import ClusterProfile
from hpcpar.registry import Declaration
from hpcpar.spec import UNDECLARED, Identity, Resources, RunSpec, StrategyChoice, Study

_OF_A_QUEUE = ("account", "qos", "partition", "constraint", "memory")
"""What only a cluster's scheduler holds jobs to."""


class PlannedRun(NamedTuple):
    """A run and what it asks of the scheduler."""

    spec: RunSpec
    resources: Resources


class Plan(NamedTuple):
    """All runs of a study in their order of execution, and what the user should know."""

    runs: tuple[PlannedRun, ...]
    warnings: tuple[Problem, ...]


class Refused(NamedTuple):
    """A cell of the grid that cannot be."""

    choice: StrategyChoice
    nodes: int
    problem: Problem


class Survey(NamedTuple):
    """Every cell of a study on its own, once, without repeats: what can be run, and what cannot."""

    runs: tuple[PlannedRun, ...]
    refused: tuple[Refused, ...]
    declared: Declaration
    warnings: tuple[Problem, ...]


def make_plan(study: Study, profile: ClusterProfile, where: str, *, version: str = "", folder: str = "") -> Plan:
    """Plan every run of `study` on `profile`.

    Args:
        study: what to run.
        profile: where to run it.
        where: the study's file, or "flags"; stands in messages.
        version: the version of hpcpar, noted in each run.
        folder: where programs of the user's own are started.

    Raises:
        InputError: with every problem that was found; nothing is planned then.
    """
    problems = list(text_problems(study, profile, where))
    place = place_of(study, profile, where, problems)
    resolved = [found for one in study.by_variant() if (found := resolve(one, where, problems))]
    problems += twins(resolved, where)
    if place is not None:
        problems += all_limits(study, place, where)
    # A wrong name must not hide a size that does not fit: the grid of what was found is checked all the same.
    cells = [(one, cell) for one in resolved for cell in cells_of(one, place, problems)] if place else []
    if problems or place is None:
        raise InputError(list(dict.fromkeys(problems)))
    runs = tuple(_runs(place, cells, version, folder))
    return Plan(runs, tuple(dict.fromkeys([*_warnings(study, profile), *_warmup_warnings(study, runs)])))


def survey(study: Study, profile: ClusterProfile, where: str, *, version: str = "") -> Survey:
    """Look at every cell of a study by itself: one that cannot be does not stand in the way of the others.

    Args:
        study: what to run; one of its variants (`Study.by_variant`).
        profile: where to run it.
        where: the study's file, or "flags"; stands in messages.
        version: the version of hpcpar, noted in each run.

    Raises:
        InputError: with every problem that all cells have (unknown names, wrong options).
    """
    problems = list(text_problems(study, profile, where))
    place = place_of(study, profile, where, [] if profile.scheduler == "pbs" else problems)
    resolved = resolve(study, where, problems)
    if problems or resolved is None or place is None:
        raise InputError(list(dict.fromkeys(problems)))
    cells: list[Cell] = []
    refused: list[Refused] = []
    for chosen in resolved.strategies:
        for nodes in dict.fromkeys(chosen.choice.nodes or study.nodes):
            resources = resources_of(study, place, nodes)
            against = list(limit_problems(resources, profile, place.node_type, where))
            found = against[0] if against else cell_of(resolved, chosen, resources, profile)
            if isinstance(found, Problem):
                refused.append(Refused(chosen.choice, nodes, found))
            else:
                cells.append(found)
    once = resolved._replace(study=msgspec.structs.replace(study, repeats=1))
    runs = tuple(_runs(place, [(once, cell) for cell in cells], version, ""))
    return Survey(runs, tuple(refused), resolved.declared, tuple(_warnings(study, profile)))


def study_problems(study: Study, where: str) -> list[Problem]:
    """List what is wrong with a study whatever the cluster: names and options of workload and strategies."""
    problems: list[Problem] = []
    for one in study.by_variant():
        resolve(one, where, problems)
    return list(dict.fromkeys(problems))


def _runs(place: Place, cells: list[tuple[Resolved, Cell]], version: str, folder: str) -> Iterator[PlannedRun]:
    order = 0
    planned = [(resolved, cell, _first(place, resolved, cell, version, folder)) for resolved, cell in cells]
    # Repeats outermost: a machine that drifts during the study then spoils all cells alike, not the last one.
    for repeat in range(1, max((lengths.repeats(resolved.study) for resolved, _ in cells), default=0) + 1):
        for resolved, cell, first in pairing.drawn(planned, repeat):
            paired = resolved.study.paired and not cell.resources.driver
            identity = msgspec.structs.replace(first.identity, repeat=repeat)
            spec = msgspec.structs.replace(
                first,
                key=identity.key(),
                identity=identity,
                order=order,
                pair=pairing.word(cell.resources, repeat) if paired else "",
            )
            order += 1
            yield PlannedRun(spec, cell.resources)


def _first(place: Place, resolved: Resolved, cell: Cell, version: str, folder: str) -> RunSpec:
    """Return the first repeat of a cell; the others differ in their number, and in what follows from it."""
    study, declared = resolved.study, resolved.declared
    identity = _identity(resolved, place, cell)
    return RunSpec(
        key=identity.key(),
        study=study.name,
        identity=identity,
        scaling=study.scaling if declared.declares_batch else UNDECLARED,
        warmup_steps=lengths.warmup(study, declared, identity.steps),
        until_steady=study.warmup_steps is None,
        quick=study.quick and declared.declares_steps,
        diagnose_steps=study.diagnose_steps,
        sinks=study.sinks,
        declares_steps=declared.declares_steps,
        **_file(resolved.workload),
        folder=folder if declared.kind == "program" else "",
        gpus_per_node=cell.resources.gpus_per_node,
        device_order=place.node_type.device_order,
        host_suffix=place.profile.host_suffix,
        socket_interface=place.profile.socket_interface,
        closed_rendezvous=place.profile.closed_rendezvous,
        sample_unit=declared.sample_unit,
        tokens_per_sample=declared.tokens_per_sample,
        uses_cpu=declared.uses_cpu,
        time_s=cell.resources.time_s,
        code=version,
    )


def _file(workload: Any) -> dict[str, Any]:
    if not isinstance(workload, workload_files.FileWorkload):
        return {}
    return {"workload_file": f"{workload.path}:{workload.object}", "workload_sha256": workload.sha256}


def _identity(resolved: Resolved, place: Place, cell: Cell) -> Identity:
    study = resolved.study
    return Identity(
        cluster=place.profile.name,
        node_type=place.node_type_name,
        workload=resolved.workload.name if _file(resolved.workload) else study.workload,
        workload_options=msgspec.to_builtins(resolved.workload_options),
        strategy=cell.chosen.choice.name,
        strategy_options=msgspec.to_builtins(cell.chosen.options),
        mesh=cell.mesh,
        nodes=cell.resources.nodes,
        ranks_per_node=cell.resources.ranks_per_node,
        cpus_per_rank=cell.resources.cpus_per_rank,
        micro_batch=cell.sizes.micro_batch,
        grad_accum=cell.sizes.grad_accum,
        global_batch=cell.sizes.global_batch,
        steps=lengths.steps(study, resolved.declared),
        seed=study.seed,
        repeat=1,
    )


def _warnings(study: Study, profile: ClusterProfile) -> Iterator[Problem]:
    if profile.account_required and not (study.account or profile.account):
        what = "needs an account to charge, and none is given"
        fix = "name it with --account, or put `account` into your own copy of the profile"
        yield Problem(f"cluster {profile.name}", what, fix)
    ignored = [name for name in _OF_A_QUEUE if getattr(study, name)] if profile.scheduler == "local" else []
    if ignored:
        what = f"this machine's own queue takes no notice of {'it' if len(ignored) == 1 else 'them'}"
        yield Problem(", ".join(ignored), what, "leave out what is meant for another cluster")
    if study.quick:
        what = f"a look: at most {lengths.QUICK_STEPS} steps and one repeat"
        yield Problem("quick", what, "leave --quick out for anything that you publish")
    elif study.repeats < 3:
        what = f"{study.repeats} repeat{'s' * (study.repeats > 1)}: the interval of a result needs at least 3"
        yield Problem("repeats", what)


def _warmup_warnings(study: Study, runs: Sequence[PlannedRun]) -> Iterator[Problem]:
    """Yield that fewer steps will be cut than was asked for: all of them would leave little or nothing to time."""
    asked = study.warmup_steps or 0
    for steps, cut in ((run.spec.identity.steps, run.spec.warmup_steps) for run in runs):
        if cut < asked:
            left = steps - asked if asked < steps else "none"
            what = f"{asked} would leave {left} of {steps} steps to time: {cut} are cut"
            yield Problem("warmup_steps", what, "more --steps, or a smaller --warmup-steps")
