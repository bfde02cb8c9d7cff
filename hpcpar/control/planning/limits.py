"""What a cluster allows, as its profile says it: nodes, CPUs, GPUs, memory, wall time. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hpcpar.errors import Problem, nearest
from hpcpar.profile import ClusterProfile, NodeType, Qos
from hpcpar.spec import Resources
from hpcpar.units import parse_memory, slurm_time


def limit_problems(resources: Resources, profile: ClusterProfile, node_type: NodeType, where: str) -> Iterator[Problem]:
    """Yield every limit that these resources break."""
    label = f"{where}: {resources.nodes} node{'s' * (resources.nodes > 1)} of {profile.name}"
    if node_type.num_nodes and resources.nodes > node_type.num_nodes:
        yield Problem(label, f"there are only {node_type.num_nodes} of this kind")
    yield from _memory_problems(resources, node_type, label)
    yield from _rank_problems(resources, node_type, label)
    yield from _queue_problems(resources, _Queues("QOS", "--qos", resources.qos, profile.qos), label)
    queues = _Queues("partition", "--partition", resources.partition, profile.partitions)
    yield from _queue_problems(resources, queues, label)


def _memory_problems(resources: Resources, node_type: NodeType, label: str) -> Iterator[Problem]:
    if resources.memory in ("", "0"):
        return
    if node_type.request_memory == "never":
        yield Problem(label, "memory must not be asked for on this cluster", "leave --memory out")
    elif node_type.memory and parse_memory(resources.memory) > parse_memory(node_type.memory):
        yield Problem(label, f"{resources.memory} of memory a node is more than the {node_type.memory} that it has")


def _rank_problems(resources: Resources, node_type: NodeType, label: str) -> Iterator[Problem]:
    cpus = resources.ranks_per_node * resources.cpus_per_rank
    if node_type.usable_cpus and cpus > node_type.usable_cpus:
        what = f"{resources.ranks_per_node} ranks x {resources.cpus_per_rank} CPUs is {cpus}, a node has"
        yield Problem(label, f"{what} {node_type.usable_cpus} usable", "lower --ranks-per-node or --cpus-per-rank")
    if node_type.gpus_per_node and resources.ranks_per_node > node_type.gpus_per_node:
        what = f"{resources.ranks_per_node} ranks a node, but {node_type.gpus_per_node} GPUs"
        yield Problem(label, what, f"one rank drives one GPU: --ranks-per-node {node_type.gpus_per_node} or less")


def driver_problem(resources: Resources, profile: ClusterProfile, node_type: NodeType, label: str) -> Problem | None:
    """The driver runs as long as its workers, beside them: where these take every CPU, they would wait for ever."""
    if not resources.driver or profile.scheduler == "local" or resources.nodes != node_type.num_nodes:
        return None
    cpus = resources.ranks_per_node * resources.cpus_per_rank
    if node_type.whole_nodes:
        what = "the workers take every node, and their driver needs one as well"
        return Problem(label, what, f"--nodes {resources.nodes - 1} or less")
    if node_type.usable_cpus and cpus >= node_type.usable_cpus:
        what = f"the workers take every CPU ({cpus} on each node), and their driver needs one as well"
        return Problem(label, what, "fewer --nodes, --ranks-per-node or --cpus-per-rank")
    return None


class _Queues(NamedTuple):
    """What can be asked for under one flag, and what is."""

    kind: str
    flag: str
    asked: str
    known: dict[str, Qos]


def _queue_problems(resources: Resources, queues: _Queues, label: str) -> Iterator[Problem]:
    kind, asked, known = queues.kind, queues.asked, queues.known
    if not asked or not known:
        return
    if asked not in known:
        yield Problem(label, f"unknown {kind} '{asked}'", nearest(asked, known))
        return
    queue = known[asked]
    largest = queue.max_nodes()
    if (largest is not None and resources.nodes > largest) or resources.nodes < queue.min_nodes:
        what = f"{kind} {asked} takes jobs of {queue.min_nodes} to {largest or 'any number of'} nodes"
        yield Problem(label, what, f"another {queues.flag}: one of {', '.join(sorted(known))}")
        return
    limit = queue.max_time_s(resources.nodes)
    if limit is not None and resources.time_s > limit:
        what = f"{slurm_time(resources.time_s)} is longer than {kind} {asked} allows ({slurm_time(limit)})"
        yield Problem(label, what, f"--time {slurm_time(limit)} or less, or another {queues.flag}")
