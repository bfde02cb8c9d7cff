"""Which strategies and meshes could run a workload on these nodes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpcpar import registry, workload_files
from hpcpar.control.forecast.engines import ENGINES
from hpcpar.control.forecast.layout import SHAPED
from hpcpar.errors import HpcparError, InputError
from hpcpar.profile import ClusterProfile
from hpcpar.spec import StrategyChoice, Study

DEEPEST = 64
"""Stages of a pipeline that are looked at."""


def with_all_strategies(study: Study, profile: ClusterProfile, where: str) -> Study:
    """Put every strategy that a forecast knows into a study, and hybrid meshes for each of its sizes."""
    kind = study.node_type or profile.default_node_type
    if kind not in profile.node_types:
        return study  # a survey says so
    ranks = study.ranks_per_node or profile.node_types[kind].ranks_per_node
    gpu = profile.node_types[kind].gpus_per_node > 0
    able = [name for name in _able(study, where) if not (gpu and name == "cp")]  # cp runs on CPUs only
    # Over nodes tp is slow (docs/plan.md): it is looked at inside of one, replicated over the others.
    inside: dict[str, dict[str, Any]] = {"tp": {"degree": ranks}, "deepspeed-tp": {"degree": ranks}}
    inside["deepspeed-pp"] = {"stages": ranks}
    choices = [StrategyChoice(name=name, options=inside.get(name, {}) if ranks > 1 else {}) for name in able]
    if any(choice.name == "hybrid" for choice in choices):
        choices = [choice for choice in choices if choice.name != "hybrid"]
        for nodes in study.nodes:
            choices += [StrategyChoice(name="hybrid", mesh=mesh, nodes=(nodes,)) for mesh in meshes(nodes, ranks)]
    return _replaced(study, tuple(choices)) if choices else study


def _replaced(study: Study, choices: tuple[StrategyChoice, ...]) -> Study:
    import msgspec

    return msgspec.structs.replace(study, strategies=choices)


def _able(study: Study, where: str) -> Iterator[str]:
    """Yield the strategies of which there is a forecast and which take workloads of this kind."""
    try:
        if workload_files.split(study.workload):
            declared = workload_files.describe(study.workload, study.workload_options, where).described.declaration
            kind = declared.kind if declared else ""
        else:
            workload = registry.get_workload(study.workload)
            kind = workload.declare(workload.Options()).kind
    except InputError:
        return
    for name in registry.names("strategy"):
        try:
            strategy = registry.get_strategy(name)
        except (HpcparError, ImportError):  # a plug-in that does not load is no choice
            continue
        modelled = hasattr(strategy, "engine") or name in ENGINES
        if kind in strategy.kinds and (modelled or kind not in SHAPED):
            yield name


def meshes(nodes: int, ranks_per_node: int) -> Iterator[str]:
    """Yield meshes of at least two axes: tp inside a node, a pipeline of powers of two, replicas or shards of the rest.

    Shards go over all data ranks, or over those of a node with replicas between nodes.
    """
    world = nodes * ranks_per_node
    for tp in (size for size in _divisors(ranks_per_node)):
        for pp in (size for size in _powers_of_two(min(DEEPEST, world // tp)) if world % (tp * size) == 0):
            data = world // (tp * pp)
            inner = ranks_per_node // tp
            ways = [("dp_replicate", "dp_shard", 1, data)] if data > 1 else []
            ways += [("dp_replicate", "dp_shard", data, 1)] if data > 1 else []
            ways += (
                [("dp_replicate", "dp_shard", data // inner, inner)] if 1 < inner < data and data % inner == 0 else []
            )
            for replicate, shard, many, each in ways or [("dp_replicate", "dp_shard", 1, 1)]:
                sizes = {"pp": pp, replicate: many, shard: each, "tp": tp}
                parts = [f"{axis}={size}" for axis, size in sizes.items() if size > 1]
                if len(parts) > 1:
                    yield ",".join(parts)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _powers_of_two(most: int) -> list[int]:
    return [2**i for i in range(most.bit_length()) if 2**i <= most]
