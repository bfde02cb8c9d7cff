"""Turn a study and a cluster profile into runs, or into the list of everything that is wrong with them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from hpcpar import composition, registry, workload_files
from hpcpar.control.planning import lengths
from hpcpar.control.planning.batch_sizes import BatchSizes, split_batch
from hpcpar.control.planning.checkpoints import checkpoint_problems, why_not, with_checkpoints
from hpcpar.control.planning.limits import limit_problems
from hpcpar.control.safe import value_problems
from hpcpar.decode import find_problems
from hpcpar.errors import HpcparError, InputError, Problem, nearest
from hpcpar.mesh import Mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.policy import Policy
from hpcpar.profile import ClusterProfile, NodeType
from hpcpar.registry import Declaration, Strategy, Workload, World
from hpcpar.runs import BATCHES
from hpcpar.spec import UNDECLARED, Identity, Resources, RunSpec, StrategyChoice, Study
from hpcpar.units import parse_duration


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


class _Chosen(NamedTuple):
    """A strategy of the study, found and its options decoded."""

    choice: StrategyChoice
    strategy: Strategy
    options: Any


class _Study(NamedTuple):
    """The study with every name in it resolved."""

    study: Study
    where: str
    workload: Workload
    workload_options: Any
    declared: Declaration
    strategies: list[_Chosen]


class _Place(NamedTuple):
    """Where it runs."""

    profile: ClusterProfile
    node_type_name: str
    node_type: NodeType


class _Cell(NamedTuple):
    """One point of the grid, without its repeats."""

    chosen: _Chosen
    mesh: Mesh
    resources: Resources
    sizes: BatchSizes


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
    problems = list(_text_problems(study, where))
    place = _place(study, profile, where, problems)
    resolved = [found for one in study.by_variant() if (found := _resolve(one, where, problems))]
    problems += _twins(resolved, where)
    if place is not None:
        problems += _limits(study, place, where)
    # A wrong name must not hide a size that does not fit: the grid of what was found is checked all the same.
    cells = [(one, cell) for one in resolved for cell in _cells(one, place, problems)] if place else []
    if problems or place is None:
        raise InputError(list(dict.fromkeys(problems)))
    return Plan(tuple(_runs(place, cells, version, folder)), tuple(_warnings(study, profile)))


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
    problems = list(_text_problems(study, where))
    place = _place(study, profile, where, [] if profile.scheduler == "pbs" else problems)
    resolved = _resolve(study, where, problems)
    if problems or resolved is None or place is None:
        raise InputError(list(dict.fromkeys(problems)))
    cells: list[_Cell] = []
    refused: list[Refused] = []
    for chosen in resolved.strategies:
        for nodes in dict.fromkeys(chosen.choice.nodes or study.nodes):
            resources = _resources(study, place, nodes)
            against = list(limit_problems(resources, profile, place.node_type, where))
            found = against[0] if against else _cell(resolved, chosen, resources, profile)
            if isinstance(found, Problem):
                refused.append(Refused(chosen.choice, nodes, found))
            else:
                cells.append(found)
    once = resolved._replace(study=msgspec.structs.replace(study, repeats=1))
    runs = tuple(_runs(place, [(once, cell) for cell in cells], version, ""))
    return Survey(runs, tuple(refused), resolved.declared, tuple(_warnings(study, profile)))


def _text_problems(study: Study, where: str) -> Iterator[Problem]:
    """Yield what must not stand in a study, whether it reaches a script or not: a run's spec.json is UTF-8."""
    for name in study.__struct_fields__:
        if name != "description":  # for people, and may have several lines
            yield from value_problems(getattr(study, name), f"{where}: {name}")
    if study.name == BATCHES:
        yield Problem(f"{where}: name '{study.name}'", "is a folder of hpcpar's own", "choose another name")


def study_problems(study: Study, where: str) -> list[Problem]:
    """List what is wrong with a study whatever the cluster: names and options of workload and strategies."""
    problems: list[Problem] = []
    for one in study.by_variant():
        _resolve(one, where, problems)
    return list(dict.fromkeys(problems))


def _twins(resolved: list[_Study], where: str) -> Iterator[Problem]:
    """Yield the variants that mean the same once defaults are filled in: their runs would share folders."""
    seen: list[Any] = []
    for one in resolved:
        if one.workload_options in seen:
            yield Problem(f"{where}: variants", f"two of them mean the same: {one.study.workload_options}")
        seen.append(one.workload_options)


# ---------------------------------------------------------------- names


def _place(study: Study, profile: ClusterProfile, where: str, problems: list[Problem]) -> _Place | None:
    if profile.scheduler == "pbs":
        what = "is scheduled by PBS"
        problems.append(Problem(f"cluster {profile.name}", what, "hpcpar submits to Slurm and to this machine only"))
    name = study.node_type or profile.default_node_type
    if name not in profile.node_types:
        hint = nearest(name, profile.node_types)
        problems.append(Problem(f"{where}: node_type '{name}'", f"cluster {profile.name} has no such nodes", hint))
        return None
    return _Place(profile, name, profile.node_types[name])


def _resolve(study: Study, where: str, problems: list[Problem]) -> _Study | None:
    """Find what the study names; None where the workload is unknown, else with those strategies that were found."""
    strategies = list(_strategies(study, where, problems))
    workload, options = _workload(study, where, problems)
    if workload is None or options is None:
        return None
    declared = workload.declare(options)
    problems += workload.check(options)
    problems += _kind_problems(strategies, study.workload, declared)
    problems += _nonfinite_problems(strategies, getattr(options, "nonfinite", "record"))
    return _Study(study, where, workload, options, declared, strategies)


def _workload(study: Study, where: str, problems: list[Problem]) -> tuple[Workload | None, Any]:
    try:
        if workload_files.split(study.workload):
            return _from_file(study, where, problems)
        workload = registry.get_workload(study.workload)
    except InputError as error:
        problems += error.problems
        return None, None
    found = find_problems(workload.Options, study.workload_options, f"{where}: workload {study.workload}")
    problems += found
    return workload, None if found else msgspec.convert(study.workload_options, workload.Options)


def _from_file(study: Study, where: str, problems: list[Problem]) -> tuple[Any, Any]:
    found = workload_files.describe(study.workload, study.workload_options, where)
    if found.described.declaration is None:
        problems += found.check(None)
        return None, None
    return found, found.described.options


def _strategies(study: Study, where: str, problems: list[Problem]) -> Iterator[_Chosen]:
    for choice in study.choices():
        try:
            strategy = registry.get_strategy(choice.name)
        except InputError as error:
            problems += error.problems
            continue
        label = f"{where}: strategy {choice.name}"
        given = dict(choice.options)
        if choice.mesh:
            if "mesh" not in strategy.Options.__struct_fields__:
                problems.append(Problem(label, "takes no mesh", "use strategy 'hybrid' to choose the mesh"))
                continue
            given["mesh"] = choice.mesh
        found = find_problems(strategy.Options, given, label)
        problems += found
        if not found:
            yield _Chosen(choice, strategy, msgspec.convert(given, strategy.Options))


def _kind_problems(strategies: list[_Chosen], workload: str, declared: Declaration) -> Iterator[Problem]:
    for choice, strategy, _ in strategies:
        if declared.kind not in strategy.kinds:
            what = f"cannot run workload {workload} (it is of the kind '{declared.kind}')"
            able = ", ".join(_strategies_for(declared.kind))
            yield Problem(f"strategy {choice.name}", what, f"strategies that can: {able}")


def _nonfinite_problems(strategies: list[_Chosen], policy: str) -> Iterator[Problem]:
    for choice, strategy, _ in strategies:
        if policy != "record" and not getattr(strategy, "looks_at_gradients", False):
            what = f"cannot look at gradients before they are used, as nonfinite={policy} asks"
            yield Problem(
                f"strategy {choice.name}", what, "leave nonfinite out, or use a point of the mesh (ddp, fsdp, ...)"
            )


def _strategies_for(kind: str) -> list[str]:
    able = []
    for name in registry.names("strategy"):
        try:
            if kind in registry.get_strategy(name).kinds:
                able.append(name)
        except (HpcparError, ImportError):  # a plug-in that does not load is not an alternative
            continue
    return able


# ---------------------------------------------------------------- the grid


def _limits(study: Study, place: _Place, where: str) -> Iterator[Problem]:
    """Yield what the cluster forbids, once for every size of the study."""
    for nodes in sorted({nodes for choice in study.choices() for nodes in choice.nodes or study.nodes}):
        yield from limit_problems(_resources(study, place, nodes), place.profile, place.node_type, where)


def _cells(resolved: _Study, place: _Place, problems: list[Problem]) -> Iterator[_Cell]:
    """Yield every strategy at every size that can be laid out; say of the others why not."""
    taken: list[tuple[str, Any, int]] = []
    for chosen in resolved.strategies:
        for nodes in chosen.choice.nodes or resolved.study.nodes:
            point = (chosen.choice.name, chosen.options, nodes)
            if point in taken:  # the same key, so both would run in one folder
                label = f"{resolved.where}: strategy {chosen.choice.name} on {nodes} node{'s' * (nodes > 1)}"
                problems.append(Problem(label, "is given twice", "--repeats is the way to run it again"))
                continue
            taken.append(point)
            found = _cell(resolved, chosen, _resources(resolved.study, place, nodes), place.profile)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                yield found


def _cell(resolved: _Study, chosen: _Chosen, resources: Resources, profile: ClusterProfile) -> _Cell | Problem:
    nodes, ranks = resources.nodes, resources.ranks_per_node
    label = f"{resolved.where}: strategy {chosen.choice.name} on {nodes} node{'s' * (nodes > 1)} x {ranks} ranks"
    try:
        mesh = chosen.strategy.layout(World(nodes, ranks), chosen.options)
    except ValueError as error:
        return Problem(label, str(error))
    if resolved.study.diagnose_steps and not hasattr(chosen.strategy, "engine"):
        what = "diagnose_steps: it has no steps that could be done after the training"
        return Problem(
            label, what, "leave it out; points of the mesh (ddp, fsdp, tp, cp, pp, ep, hybrid) can be diagnosed"
        )
    engine = _engine(chosen)
    for refusal in composition.layout_refusals(mesh, engine, resolved.declared):
        return Problem(label, *refusal)
    global_batch = _global_batch(resolved, ranks, mesh.world_size, label)
    if isinstance(global_batch, Problem):
        return global_batch
    least = composition.least_micro_batches(mesh, engine)
    sizes = split_batch(global_batch, resolved.study.micro_batch, mesh, label, least)
    if isinstance(sizes, Problem):
        return sizes
    for refusal in composition.batch_refusals(mesh, engine, sizes.grad_accum):
        return Problem(label, *refusal)
    why_none = why_not(chosen.strategy, resolved.declared)
    for problem in checkpoint_problems(resolved.study, why_none, resources, label):
        return problem
    resources = with_checkpoints(resources, resolved.study, profile, possible=not why_none)
    resources = msgspec.structs.replace(resources, driver=bool(getattr(chosen.strategy, "drives", False)))
    return _Cell(chosen, mesh, resources, sizes)


def _engine(chosen: _Chosen) -> EngineOptions:
    # Only points of the mesh have an engine; the rules hold for its axes, and other strategies have none.
    engine = getattr(chosen.strategy, "engine", None)
    return engine(chosen.options) if engine else EngineOptions()


def _global_batch(resolved: _Study, ranks_per_node: int, world_size: int, label: str) -> int | Problem:
    """Return the global batch: fixed, or (weak scaling) fixed over the ranks of the study's smallest size."""
    study = resolved.study
    if not resolved.declared.declares_batch and study.global_batch is None:
        return world_size  # a number that means nothing is at least one that divides
    global_batch = study.global_batch or resolved.declared.global_batch
    if study.scaling == "strong":
        return global_batch
    smallest = min(n for choice in study.choices() for n in choice.nodes or study.nodes) * ranks_per_node
    if global_batch * world_size % smallest:
        what = f"weak scaling: a batch of {global_batch} does not divide over the smallest size's {smallest} ranks"
        return Problem(label, what, f"choose a global batch that is a multiple of {smallest}")
    return global_batch * world_size // smallest


def _resources(study: Study, place: _Place, nodes: int) -> Resources:
    node_type = place.node_type
    ranks_per_node = study.ranks_per_node or node_type.ranks_per_node
    account = study.account or place.profile.account
    if account and node_type.account_suffix and not account.endswith(node_type.account_suffix):
        account += node_type.account_suffix
    policy = study.policy or Policy()
    gpus = node_type.gpus_per_node if node_type.whole_nodes else min(ranks_per_node, node_type.gpus_per_node)
    return Resources(
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        cpus_per_rank=study.cpus_per_rank or node_type.cpus_per_rank,
        time_s=parse_duration(study.time or place.profile.default_time),
        gpus_per_node=gpus,
        memory="0" if node_type.request_memory == "whole-node" else study.memory,
        account=account,
        qos=study.qos or node_type.qos,
        partition=study.partition or node_type.partition,
        constraint=study.constraint or node_type.constraint,
        requeue_on_fault=place.profile.scheduler == "slurm" and policy.requeue,
        hang_after_s=parse_duration(policy.hang_after) if policy.hang_after else 0.0,
    )


# ---------------------------------------------------------------- runs


def _runs(place: _Place, cells: list[tuple[_Study, _Cell]], version: str, folder: str) -> Iterator[PlannedRun]:
    order = 0
    # Repeats outermost: a machine that drifts during the study then spoils all cells alike, not the last one.
    for repeat in range(1, max((lengths.repeats(resolved.study) for resolved, _ in cells), default=0) + 1):
        for resolved, cell in cells:
            study, declared = resolved.study, resolved.declared
            identity = _identity(resolved, place, cell, repeat)
            spec = RunSpec(
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
                sample_unit=declared.sample_unit,
                tokens_per_sample=declared.tokens_per_sample,
                uses_cpu=declared.uses_cpu,
                time_s=cell.resources.time_s,
                code=version,
                order=order,
            )
            order += 1
            yield PlannedRun(spec, cell.resources)


def _file(workload: Any) -> dict[str, Any]:
    if not isinstance(workload, workload_files.FileWorkload):
        return {}
    return {"workload_file": f"{workload.path}:{workload.object}", "workload_sha256": workload.sha256}


def _identity(resolved: _Study, place: _Place, cell: _Cell, repeat: int) -> Identity:
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
        repeat=repeat,
    )


def _warnings(study: Study, profile: ClusterProfile) -> Iterator[Problem]:
    if profile.account_required and not (study.account or profile.account):
        what = "needs an account to charge, and none is given"
        fix = "name it with --account, or put `account` into your own copy of the profile"
        yield Problem(f"cluster {profile.name}", what, fix)
    if study.quick:
        what = f"a look: at most {lengths.QUICK_STEPS} steps and one repeat"
        yield Problem("quick", what, "leave --quick out for anything that you publish")
    elif study.repeats < 3:
        what = f"{study.repeats} repeat{'s' * (study.repeats > 1)}: the interval of a result needs at least 3"
        yield Problem("repeats", what)
