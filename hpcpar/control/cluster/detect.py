"""A first profile of the machine: what Slurm says of itself, as the text of clusters/NAME.toml. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from hpcpar.control.cluster.answers import Node, Partition, QosRow
from hpcpar.control.cluster.machine import Machine
from hpcpar.control.safe import word_problems
from hpcpar.errors import InputError, Problem
from hpcpar.units import parse_duration, slurm_time

_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_MANY_SOCKETS = 8
"""Machines that declare more are virtual ones, whose sockets mean nothing."""
_DEFAULT_TIME = "10m"
_NO_LIMIT = "365d"
"""Slurm's own year, for a partition that bounds nodes and not time."""
_ALWAYS = (
    "ranks_per_node and cpus_per_rank are a choice: here one rank a GPU, on nodes without GPUs one a socket",
    "[srun], [environment], socket_interface, host_suffix, device_order: your site's pages know them, Slurm does not",
    "prices: Slurm knows the factor of a QOS, not what a node costs (charge_rate)",
)


class Kind(NamedTuple):
    """Nodes that are alike, and the partition in which a job gets them."""

    name: str
    nodes: tuple[Node, ...]
    partition: Partition
    constraint: str
    qos: str

    @property
    def ranks(self) -> int:
        """One a GPU; without GPUs one a socket, where sockets mean something."""
        node = self.nodes[0]
        sockets = min(one.sockets for one in self.nodes)
        whole = sockets <= _MANY_SOCKETS and node.cpus % sockets == 0 and node.cpus // sockets > 1
        return node.gpus or (sockets if whole else 1)


class Detected(NamedTuple):
    """A profile's text, and what a person should look at."""

    text: str
    notes: tuple[str, ...]


def profile_name(machine: Machine) -> str:
    """Return the cluster's name as a profile may be called."""
    name = _NO_NAME.sub("-", machine.config.get("ClusterName", "")).strip("-._")
    return name[:64] or "cluster"


def detect(machine: Machine, name: str, today: str) -> Detected:
    """Write a profile.

    Args:
        machine: what Slurm answered, with its nodes.
        name: what the profile is called.
        today: the day, YYYY-MM-DD; it stands beside the source of the values.

    Raises:
        InputError: there are no nodes that a job could get.
    """
    notes: list[str] = []
    kinds = _kinds(machine, notes)
    if not kinds:
        what = "Slurm shows no nodes in a partition that takes jobs of yours"
        raise InputError(Problem("this cluster", what, "; ".join(machine.silent)))
    notes += [f"not answered: {text}" for text in machine.silent]
    lines = [*_head(machine, name, today, notes), *_top(machine, name, kinds)]
    for kind in kinds:
        lines += _node_type(kind, machine)
    lines += [line for row in _usable_qos(machine) for line in _qos(row)]
    lines += [line for partition in _partitions(machine, kinds) for line in _partition(partition, machine)]
    lines += _source(machine, kinds, today)
    return Detected("\n".join(lines) + "\n", tuple(notes))


# ---------------------------------------------------------------- which nodes belong together


def _kinds(machine: Machine, notes: list[str]) -> list[Kind]:
    groups: dict[tuple[Any, ...], list[Node]] = {}
    for node in machine.nodes:
        if node.exists and node.cpus:
            groups.setdefault((node.gpus, node.gpu_type, node.cpus, node.threads_per_core), []).append(node)
    kinds: list[Kind] = []
    for nodes in sorted(groups.values(), key=lambda group: (-len(group), group[0].name)):
        partition = _best_partition(machine, nodes)
        if partition is None:
            notes.append(f"{_described(nodes[0])} ({nodes[0].name}, ...): in no partition that takes jobs of yours")
            continue
        mine = tuple(node for node in nodes if partition.name in node.partitions)
        constraint = _constraint(machine, mine, partition, notes)
        name = _kind_name(mine[0], {kind.name for kind in kinds})
        kinds.append(Kind(name, mine, partition, constraint, _default_qos(machine, partition)))
    return sorted(kinds, key=lambda kind: not kind.partition.default)


def _best_partition(machine: Machine, nodes: list[Node]) -> Partition | None:
    def worth(partition: Partition) -> tuple[Any, ...]:
        inside = sum(partition.name in node.partitions for node in nodes)
        return partition.default, inside, partition.max_time_s or float("inf")

    able = [p for p in _open_partitions(machine) if any(p.name in node.partitions for node in nodes)]
    return max(able, key=worth, default=None)


def _open_partitions(machine: Machine) -> Iterator[Partition]:
    accounts = {association.account for association in machine.associations}
    for partition in machine.partitions:
        allowed = partition.allow_accounts is None or not accounts or accounts & partition.allow_accounts
        if partition.up and not partition.hidden and allowed and not list(word_problems({"": partition.name})):
            yield partition


def _constraint(machine: Machine, nodes: tuple[Node, ...], partition: Partition, notes: list[str]) -> str:
    """Return a feature that only these nodes of the partition have, where a job could get others."""
    names = {node.name for node in nodes}
    others = [
        node
        for node in machine.nodes
        # Who asks for GPUs gets no node with fewer.
        if node.exists and partition.name in node.partitions and node.name not in names and node.gpus >= nodes[0].gpus
    ]
    if not others:
        return ""
    own = frozenset.intersection(*(node.features for node in nodes)).difference(*(node.features for node in others))
    usable = sorted(feature for feature in own if not list(word_problems({"": feature})))
    if usable:
        wanted = nodes[0].gpu_type.lower()
        return next((feature for feature in usable if feature.lower() == wanted), usable[0])
    what = f"a job that wants {_described(nodes[0])} may get {_described(others[0])}"
    notes.append(f"partition {partition.name}: {what}, no feature tells them apart")
    return ""


def _described(node: Node) -> str:
    gpus = f"{node.gpus} x {node.gpu_type or 'GPU'} and " if node.gpus else ""
    return f"a node with {gpus}{node.cpus} CPUs"


def _kind_name(node: Node, taken: set[str]) -> str:
    first = "gpu" if node.gpus else "cpu"
    kind = _NO_NAME.sub("-", node.gpu_type.lower()).strip("-._")
    names = [first, kind, f"{kind or first}-{node.gpus or node.cpus}", f"{kind or first}-{node.cpus}c"]
    numbered = [f"{kind or first}-{i}" for i in range(2, len(taken) + 3)]
    return next(name for name in [*names, *numbered] if name and name not in taken)


def _default_qos(machine: Machine, partition: Partition) -> str:
    association = machine.association("", partition.name)
    known = {row.name for row in _usable_qos(machine)}
    return association.default_qos if association and association.default_qos in known else ""


def _usable_qos(machine: Machine) -> list[QosRow]:
    mine = {name for association in machine.associations for name in association.qos}
    rows = [row for row in machine.qos if row.name in mine or not mine]
    named = {row.name: row for row in reversed(rows)}  # a name that comes twice is damage; the first one counts
    return [row for row in rows if named[row.name] is row and not list(word_problems({"": row.name}))]


def _partitions(machine: Machine, kinds: list[Kind]) -> list[Partition]:
    used = {kind.partition.name for kind in kinds}
    return [
        p for p in _open_partitions(machine) if p.name in used or any(p.name in n.partitions for n in machine.nodes)
    ]


# ---------------------------------------------------------------- the text


def _head(machine: Machine, name: str, today: str, notes: Iterable[str]) -> Iterator[str]:
    said = f"What Slurm {_comment(machine.version)} said of this cluster on {today}"
    yield f"# {said}: a first profile, to be read and corrected."
    yield "# `hpcpar show cluster generic` explains every key, and those that are not here."
    yield "#"
    yield "# Look at these before the first long study:"
    for note in (*_ALWAYS, *notes):
        yield f"# - {_comment(note)}"
    yield f"# `hpcpar cluster verify {name}` compares this file with the machine."
    yield ""


def _top(machine: Machine, name: str, kinds: list[Kind]) -> Iterator[str]:
    first = kinds[0].partition
    limit = _limit_s(first, machine)
    default = slurm_time(limit) if limit is not None and limit < parse_duration(_DEFAULT_TIME) else _DEFAULT_TIME
    yield "schema = 1"
    yield _pair("name", name)
    yield _pair("description", f"{machine.config.get('ClusterName', name)}, as Slurm describes it")
    yield _pair("scheduler", "slurm")
    yield _pair("default_node_type", kinds[0].name)
    needed = "associations" in machine.enforces and bool(machine.associations) and not machine.default_account
    why = "you have no default account" if machine.associations else "unknown: the accounting says nothing of you"
    if machine.default_account:
        why = f"your default account is {machine.default_account}"
    yield _pair("account_required", needed) + f" # {_comment(why)}"
    yield _pair("default_time", default)
    if machine.max_array_size:
        yield _pair("max_array_size", machine.max_array_size)
    site = {"1": "goes back into the queue", "0": "is lost"}.get(machine.config.get("JobRequeue", ""), "?")
    yield _pair("requeue", False) + f" # the site's default: a job whose node fails {site}"


def _node_type(kind: Kind, machine: Machine) -> Iterator[str]:
    node, partition = kind.nodes[0], kind.partition
    memory = min(one.memory_mib for one in kind.nodes)
    yield ""
    yield f"[node_types.{_key(kind.name)}]"
    yield _pair("description", f"{_described(node)}; partition {partition.name}")
    yield _pair("num_nodes", len(kind.nodes))
    yield _pair("usable_cpus", node.cpus)
    yield _pair("threads_per_core", node.threads_per_core)
    yield _pair("ranks_per_node", kind.ranks)
    yield _pair("cpus_per_rank", max(node.cpus // kind.ranks, 1))
    if memory:
        yield _pair("memory", f"{memory}M") + (
            " # the smallest" if any(n.memory_mib > memory for n in kind.nodes) else ""
        )
    if partition.exclusive:
        yield _pair("request_memory", "whole-node") + " # a job has its nodes for itself"
    if node.gpus:
        yield _pair("gpus_per_node", node.gpus)
        chooses = "cons_tres" in machine.config.get("SelectType", "")
        yield _pair("gpu_request", "gpus-per-node" if chooses else "gres")
        if node.gpu_type:
            yield _pair("accelerator", node.gpu_type)
    yield _pair("partition", partition.name)
    if kind.constraint:
        yield _pair("constraint", kind.constraint) + " # the partition has other nodes too"
    if kind.qos:
        yield _pair("qos", kind.qos) + " # your default in this partition"
    if not partition.exclusive:
        yield '# Jobs share nodes here: put "--exclusive" into `directives`, or neighbours disturb measurements.'


def _qos(row: QosRow) -> Iterator[str]:
    yield ""
    yield f"[qos.{_key(row.name)}]"
    if row.usage_factor is not None:
        yield f"charge_factor = {row.usage_factor} # Slurm's UsageFactor"
    yield from _limits(row.max_wall_s, row.max_nodes)
    if row.max_submit:
        yield _pair("max_queued", row.max_submit)
    if row.min_nodes and row.min_nodes > 1:
        yield _pair("min_nodes", row.min_nodes)


def _partition(partition: Partition, machine: Machine) -> Iterator[str]:
    row = machine.qos_row(partition.qos) if partition.qos else None
    sizes = [size for size in (partition.max_nodes, row.max_nodes if row else None) if size]
    yield ""
    yield f"[partitions.{_key(partition.name)}]"
    yield from _limits(_limit_s(partition, machine), min(sizes, default=None))
    if partition.min_nodes > 1:
        yield _pair("min_nodes", partition.min_nodes)


def _limit_s(partition: Partition, machine: Machine) -> float | None:
    """Return the longest time in a partition: its own limit or that of its QOS, which `sinfo` does not show."""
    row = machine.qos_row(partition.qos) if partition.qos else None
    limits = [limit for limit in (partition.max_time_s, row.max_wall_s if row else None) if limit is not None]
    return min(limits, default=None)


def _limits(max_time_s: float | None, max_nodes: int | None) -> Iterator[str]:
    if max_time_s is None and not max_nodes:
        return
    time = _NO_LIMIT if max_time_s is None else slurm_time(max_time_s)
    nodes = f"max_nodes = {max_nodes}, " if max_nodes else ""
    yield f"limits = [{{ {nodes}max_time = {_quoted(time)} }}]"


def _source(machine: Machine, kinds: list[Kind], today: str) -> Iterator[str]:
    keys = ["max_array_size", *(f"node_types.{kind.name}.*" for kind in kinds), "qos.*", "partitions.*"]
    yield ""
    yield "[[sources]]"
    yield f"keys = [{', '.join(_quoted(key) for key in keys)}]"
    yield _pair("url", "scontrol show config, partition, node; sacctmgr show qos, assoc")
    yield _pair("checked", today)
    yield _pair("note", f"Slurm {machine.version}, read by hpcpar cluster detect.")


def _pair(key: str, value: object) -> str:
    text = (
        str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else _quoted(str(value))
    )
    return f"{key} = {text}"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    """Print a TOML string; whatever is not plain ASCII stands as its number."""
    return '"' + "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else _escape(c) for c in text) + '"'


def _escape(char: str) -> str:
    number = ord(char)
    if 0xD800 <= number <= 0xDFFF:  # half of a pair: TOML has no way to say it
        return "?"
    return f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"


def _comment(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
