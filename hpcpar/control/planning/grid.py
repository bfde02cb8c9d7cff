"""Every strategy at every size: ranks, batch and resources of a cell, or why it cannot be. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from hpcpar import composition
from hpcpar.control.planning.batch_sizes import BatchSizes, split_batch
from hpcpar.control.planning.checkpoints import checkpoint_problems, why_not, with_checkpoints
from hpcpar.control.planning.limits import driver_problem, limit_problems
from hpcpar.control.planning.names import Chosen, Place, Resolved
from hpcpar.errors import Problem
from hpcpar.mesh import Mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.policy import Policy
from hpcpar.profile import ClusterProfile
from hpcpar.registry import World
from hpcpar.spec import Resources, Study
from hpcpar.units import parse_duration


class Cell(NamedTuple):
    """One point of the grid, without its repeats."""

    chosen: Chosen
    mesh: Mesh
    resources: Resources
    sizes: BatchSizes


def all_limits(study: Study, place: Place, where: str) -> Iterator[Problem]:
    """Yield what the cluster forbids, once for every size of the study."""
    for nodes in sorted({nodes for choice in study.choices() for nodes in choice.nodes or study.nodes}):
        yield from limit_problems(resources_of(study, place, nodes), place.profile, place.node_type, where)


def cells_of(resolved: Resolved, place: Place, problems: list[Problem]) -> Iterator[Cell]:
    """Yield every strategy at every size that can be laid out; say of the others why not."""
    if _wants_gpu_in_vain(resolved, place):
        what = f"device: 'cuda', but the nodes '{place.node_type_name}' of {place.profile.name} have no GPUs"
        problems.append(Problem(f"workload {resolved.workload.name}", what, "device=cpu, or another --node-type"))
        return
    taken: list[tuple[str, Any, int]] = []
    for chosen in resolved.strategies:
        for nodes in chosen.choice.nodes or resolved.study.nodes:
            point = (chosen.choice.name, chosen.options, nodes)
            label = f"{resolved.where}: strategy {chosen.choice.name} on {nodes} node{'s' * (nodes > 1)}"
            if point in taken:  # the same key, so both would run in one folder
                problems.append(Problem(label, "is given twice", "--repeats is the way to run it again"))
                continue
            taken.append(point)
            found = cell_of(resolved, chosen, resources_of(resolved.study, place, nodes), place.profile)
            if isinstance(found, Cell):
                found = driver_problem(found.resources, place.profile, place.node_type, label) or found
            if isinstance(found, Problem):
                problems.append(found)
            else:
                yield found


def _wants_gpu_in_vain(resolved: Resolved, place: Place) -> bool:
    """Say whether a workload asks for a GPU that the profile rules out; of its own machine `local` says nothing."""
    asks = getattr(resolved.workload_options, "device", "") == "cuda"
    return asks and place.profile.scheduler != "local" and not place.node_type.gpus_per_node


def cell_of(resolved: Resolved, chosen: Chosen, resources: Resources, profile: ClusterProfile) -> Cell | Problem:
    """Lay out one strategy at one size; the problem where it cannot be."""
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
    return Cell(chosen, mesh, resources, sizes)


def _engine(chosen: Chosen) -> EngineOptions:
    # Only points of the mesh have an engine; the rules hold for its axes, and other strategies have none.
    engine = getattr(chosen.strategy, "engine", None)
    return engine(chosen.options) if engine else EngineOptions()


def _global_batch(resolved: Resolved, ranks_per_node: int, world_size: int, label: str) -> int | Problem:
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


def resources_of(study: Study, place: Place, nodes: int) -> Resources:
    """Return what a run on so many nodes asks of the scheduler."""
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
