"""Find what a study names: the nodes, the workload, the strategies, and their options. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from hpcpar import registry, workload_files
from hpcpar.control.safe import value_problems
from hpcpar.decode import find_problems
from hpcpar.errors import HpcparError, InputError, Problem, nearest
from hpcpar.profile import ClusterProfile, NodeType
from hpcpar.registry import Declaration, Strategy, Workload
from hpcpar.runs import BATCHES
from hpcpar.spec import StrategyChoice, Study


class Chosen(NamedTuple):
    """A strategy of the study, found and its options decoded."""

    choice: StrategyChoice
    strategy: Strategy
    options: Any


class Resolved(NamedTuple):
    """The study with every name in it resolved."""

    study: Study
    where: str
    workload: Workload
    workload_options: Any
    declared: Declaration
    strategies: list[Chosen]


class Place(NamedTuple):
    """Where it runs."""

    profile: ClusterProfile
    node_type_name: str
    node_type: NodeType


def text_problems(study: Study, profile: ClusterProfile, where: str) -> Iterator[Problem]:
    """Yield what must not stand in a study, whether it reaches a script or not: a run's spec.json is UTF-8."""
    for name in study.__struct_fields__:
        if name != "description":  # for people, and may have several lines
            yield from value_problems(getattr(study, name), f"{where}: {name}")
    if study.max_queued and profile.scheduler == "local":
        yield Problem(f"{where}: max_queued", "is for a cluster that limits a user's jobs", "leave it out on local")
    if study.name == BATCHES:
        yield Problem(f"{where}: name '{study.name}'", "is a folder of hpcpar's own", "choose another name")


def place_of(study: Study, profile: ClusterProfile, where: str, problems: list[Problem]) -> Place | None:
    """Find the kind of nodes; None where the cluster has none of that name."""
    if profile.scheduler == "pbs":
        what = "is scheduled by PBS"
        problems.append(Problem(f"cluster {profile.name}", what, "hpcpar submits to Slurm and to this machine only"))
    name = study.node_type or profile.default_node_type
    if name not in profile.node_types:
        hint = nearest(name, profile.node_types)
        problems.append(Problem(f"{where}: node_type '{name}'", f"cluster {profile.name} has no such nodes", hint))
        return None
    return Place(profile, name, profile.node_types[name])


def resolve(study: Study, where: str, problems: list[Problem]) -> Resolved | None:
    """Find what the study names; None where the workload is unknown, else with those strategies that were found."""
    strategies = list(_strategies(study, where, problems))
    workload, options = _workload(study, where, problems)
    if workload is None or options is None:
        return None
    declared = workload.declare(options)
    problems += workload.check(options)
    problems += _kind_problems(strategies, study.workload, declared)
    problems += _nonfinite_problems(strategies, getattr(options, "nonfinite", "record"))
    return Resolved(study, where, workload, options, declared, strategies)


def _workload(study: Study, where: str, problems: list[Problem]) -> tuple[Workload | None, Any]:
    if study.workload.endswith(".py"):
        what = "is a file, and which workload of it is meant is not said"
        problems.append(Problem(f"workload '{study.workload}'", what, "FILE.py:NAME, the object in that file"))
        return None, None
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


def _strategies(study: Study, where: str, problems: list[Problem]) -> Iterator[Chosen]:
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
            yield Chosen(choice, strategy, msgspec.convert(given, strategy.Options))


def _kind_problems(strategies: list[Chosen], workload: str, declared: Declaration) -> Iterator[Problem]:
    for choice, strategy, _ in strategies:
        if declared.kind not in strategy.kinds:
            what = f"cannot run workload {workload} (it is of the kind '{declared.kind}')"
            able = ", ".join(_strategies_for(declared.kind))
            yield Problem(f"strategy {choice.name}", what, f"strategies that can: {able}")


def _nonfinite_problems(strategies: list[Chosen], policy: str) -> Iterator[Problem]:
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


def twins(resolved: list[Resolved], where: str) -> Iterator[Problem]:
    """Yield the variants that mean the same once defaults are filled in: their runs would share folders."""
    seen: list[Any] = []
    for one in resolved:
        if one.workload_options in seen:
            yield Problem(f"{where}: variants", f"two of them mean the same: {one.study.workload_options}")
        seen.append(one.workload_options)
