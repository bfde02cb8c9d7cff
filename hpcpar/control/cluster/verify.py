"""A profile beside the live machine: what differs, and what to write instead. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from hpcpar.control.cluster.answers import Node, Partition
from hpcpar.control.cluster.machine import Machine
from hpcpar.errors import nearest
from hpcpar.profile import ClusterProfile, NodeType, Qos, Source
from hpcpar.units import parse_memory, slurm_memory, slurm_time

_FEATURE = re.compile(r"[A-Za-z0-9_.:+-]+")
_COUNT = re.compile(r"\*\d+")


class Difference(NamedTuple):
    """One thing that the profile says and the machine does not bear out."""

    key: str
    """With dots, as in the file."""
    profile: str
    machine: str
    fix: str


class Verdict(NamedTuple):
    """The result of a comparison."""

    differences: tuple[Difference, ...]
    unchecked: tuple[str, ...]
    """What the machine did not answer."""
    unconfirmed: tuple[Source, ...]
    """What the profile itself calls unconfirmed."""


def verify(profile: ClusterProfile, machine: Machine) -> Verdict:
    """Compare a profile with what Slurm answered, its nodes included."""
    differences = [*_config(profile, machine), *_queues(profile, machine)]
    for name, node_type in profile.node_types.items():
        differences += _node_type(f"node_types.{name}", node_type, machine, profile)
    unconfirmed = tuple(source for source in profile.sources if not source.confirmed)
    return Verdict(tuple(differences), machine.silent, unconfirmed)


def _config(profile: ClusterProfile, machine: Machine) -> Iterator[Difference]:
    size = machine.max_array_size
    if size is not None and profile.max_array_size > size:
        yield Difference("max_array_size", str(profile.max_array_size), str(size), f"max_array_size = {size}")
    needs = "associations" in machine.enforces and not machine.default_account and machine.associations
    if needs and not profile.account_required:
        yield Difference("account_required", "false", "you have no default account", "account_required = true")
    accounts = sorted({association.account for association in machine.associations})
    if profile.account and accounts and profile.account not in accounts:
        yield Difference(
            "account", profile.account, f"yours: {', '.join(accounts)}", nearest(profile.account, accounts)
        )


# ---------------------------------------------------------------- kinds of nodes


def _node_type(key: str, node_type: NodeType, machine: Machine, profile: ClusterProfile) -> Iterator[Difference]:
    partition = machine.partition(node_type.partition)
    if machine.partitions and partition is None:
        known = [one.name for one in machine.partitions]
        said = node_type.partition or "the default"
        fix = nearest(node_type.partition, known) if node_type.partition else f"name one of: {', '.join(known)}"
        yield Difference(f"{key}.partition", said, "there is no such partition", fix)
        return
    if partition is not None and not partition.up:
        yield Difference(f"{key}.partition", partition.name, "takes no jobs at present", "ask the site, or another one")
    yield from _allowed(key, node_type, partition, machine, profile)
    if not machine.nodes:
        return
    inside = [node for node in machine.nodes if partition is None or partition.name in node.partitions]
    unknown = sorted(_features(node_type.constraint) - {feature for node in machine.nodes for feature in node.features})
    if unknown:
        known = sorted({feature for node in inside for feature in node.features})
        what = f"no node has: {', '.join(unknown)}"
        yield Difference(f"{key}.constraint", node_type.constraint, what, nearest(unknown[0], known))
        return
    nodes = [node for node in inside if node.exists and _matches(node, node_type)]
    if not nodes:
        yield from _no_nodes(key, node_type, inside)
        return
    yield from _sizes(key, node_type, nodes)


def _allowed(
    key: str, node_type: NodeType, partition: Partition | None, machine: Machine, profile: ClusterProfile
) -> Iterator[Difference]:
    if node_type.qos and machine.qos and machine.qos_row(node_type.qos) is None:
        fix = nearest(node_type.qos, [row.name for row in machine.qos])
        yield Difference(f"{key}.qos", node_type.qos, "there is no such QOS", fix)
        return
    account = profile.account or machine.default_account
    for what, why in refusals(machine, partition, account, node_type.qos):
        yield Difference(f"{key}.{what}", getattr(node_type, what, "") or account, why, "another one, or ask the site")


def refusals(machine: Machine, partition: Partition | None, account: str, qos: str) -> Iterator[tuple[str, str]]:
    """Yield what keeps a job of this account and QOS out of a partition: "partition" or "qos", and why."""
    if partition is not None and account:
        listed = partition.allow_accounts is not None and account not in partition.allow_accounts
        if listed or account in partition.deny_accounts:
            yield "partition", f"partition {partition.name} takes no jobs of account {account}"
    if partition is not None and qos:
        listed = partition.allow_qos is not None and qos not in partition.allow_qos
        if listed or qos in partition.deny_qos:
            yield "qos", f"partition {partition.name} takes no jobs of QOS {qos}"
    association = machine.association(account, partition.name if partition else "")
    if qos and association is not None and association.qos and qos not in association.qos and "qos" in machine.enforces:
        yield "qos", f"account {association.account} may use {', '.join(sorted(association.qos))}"


def _features(constraint: str) -> set[str]:
    """Return the words of a constraint: "[a*2&b*4]|c" has a, b and c."""
    return set(_FEATURE.findall(_COUNT.sub("", constraint)))


def _matches(node: Node, node_type: NodeType) -> bool:
    """Say whether a job of this kind may get the node, as far as that can be told from words that are all demanded."""
    gpus = node_type.gpus_per_node if node_type.gpu_request != "constraint-only" else 0
    plain = not set("|[]()!") & set(node_type.constraint)
    return node.gpus >= gpus and (not plain or _features(node_type.constraint) <= node.features)


def _no_nodes(key: str, node_type: NodeType, inside: list[Node]) -> Iterator[Difference]:
    most = max((node.gpus for node in inside), default=0)
    if node_type.gpus_per_node > most:
        fix = f"gpus_per_node = {most}" if most else "another partition"
        yield Difference(f"{key}.gpus_per_node", str(node_type.gpus_per_node), f"nodes have {most}", fix)
    else:
        yield Difference(f"{key}.constraint", node_type.constraint, "no node of the partition fits", "another one")


def _sizes(key: str, node_type: NodeType, nodes: list[Node]) -> Iterator[Difference]:
    if node_type.num_nodes and node_type.num_nodes != len(nodes):
        yield Difference(f"{key}.num_nodes", str(node_type.num_nodes), str(len(nodes)), f"num_nodes = {len(nodes)}")
    cpus = min(node.cpus for node in nodes)
    asked = node_type.ranks_per_node * node_type.cpus_per_rank
    if node_type.usable_cpus and node_type.usable_cpus != cpus:
        yield Difference(f"{key}.usable_cpus", str(node_type.usable_cpus), str(cpus), f"usable_cpus = {cpus}")
    if asked > cpus:
        said = f"{node_type.ranks_per_node} ranks x {node_type.cpus_per_rank}"
        per_rank = max(cpus // node_type.ranks_per_node, 1)
        yield Difference(f"{key}.cpus_per_rank", said, f"{cpus} CPUs a node", f"cpus_per_rank = {per_rank}")
    threads = min(node.threads_per_core for node in nodes)
    if node_type.threads_per_core != threads:
        fix = f"threads_per_core = {threads}"
        yield Difference(f"{key}.threads_per_core", str(node_type.threads_per_core), str(threads), fix)
    memory = min(node.memory_mib for node in nodes) * 1024**2
    if node_type.memory and memory and parse_memory(node_type.memory) > memory:
        fix = f'memory = "{slurm_memory(memory)}"'
        yield Difference(f"{key}.memory", node_type.memory, slurm_memory(memory), fix)
    gpus = min(node.gpus for node in nodes)
    if node_type.gpus_per_node != gpus and any(node.gpus for node in nodes):
        said = str(node_type.gpus_per_node)
        fix = f"gpus_per_node = {gpus}, and ranks_per_node with it" if gpus else "a constraint, or gpu_request"
        yield Difference(f"{key}.gpus_per_node", said, f"nodes have {gpus}", fix)


# ---------------------------------------------------------------- QOS and partitions


def _queues(profile: ClusterProfile, machine: Machine) -> Iterator[Difference]:
    for name, table in profile.qos.items():
        row = machine.qos_row(name)
        if row is not None:
            yield from _limits(f"qos.{name}", table, row.max_wall_s, row.max_nodes)
            if row.max_submit and table.max_queued and table.max_queued > row.max_submit:
                fix = f"max_queued = {row.max_submit}"
                yield Difference(f"qos.{name}.max_queued", str(table.max_queued), str(row.max_submit), fix)
        elif machine.qos:
            fix = nearest(name, [one.name for one in machine.qos])
            yield Difference(f"qos.{name}", "is a QOS", "there is no such QOS", fix)
    for name, table in profile.partitions.items():
        partition = machine.partition(name)
        if partition is not None:
            own = machine.qos_row(partition.qos) if partition.qos else None
            walls = [wall for wall in (partition.max_time_s, own.max_wall_s if own else None) if wall is not None]
            yield from _limits(f"partitions.{name}", table, min(walls, default=None), partition.max_nodes)
        elif machine.partitions:
            fix = nearest(name, [one.name for one in machine.partitions])
            yield Difference(f"partitions.{name}", "is a partition", "there is no such partition", fix)


def _limits(key: str, table: Qos, wall_s: float | None, max_nodes: int | None) -> Iterator[Difference]:
    """Compare limits: a profile may be stricter than Slurm (sites say more in words), never more generous."""
    if wall_s is not None:
        longest = max((table.max_time_s(limit.max_nodes or 1) or 0 for limit in table.limits), default=None)
        if longest is None or longest > wall_s:
            said = slurm_time(longest) if longest is not None else "no limit"
            fix = f'limits = [{{ max_time = "{slurm_time(wall_s)}" }}]'
            yield Difference(f"{key}.limits", said, slurm_time(wall_s), fix)
    largest = table.max_nodes()
    if max_nodes is not None and (largest is None or largest > max_nodes):
        said = f"{largest} nodes" if largest else "any number of nodes"
        yield Difference(f"{key}.limits", said, f"{max_nodes} nodes", f"max_nodes = {max_nodes}")
