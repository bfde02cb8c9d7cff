"""What Slurm prints about the machine, parsed: partitions, nodes, QOS, associations.

Slurm's own text forms are read, not its JSON: they have kept their keys from 20.11 to 25.11, keys are found by name,
and what is unknown, missing or cut is left out. A limit that is not understood is no limit here, never zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from hpcpar.units import parse_duration

SINFO_FIELDS = "%N|%P|%c|%X|%Z|%m|%f|%G|%T"
"""What `parse_sinfo` reads."""
_FIELD = re.compile(r"(?:^|(?<=\s))([A-Za-z][A-Za-z0-9_/]*)=")
_NUMBER = re.compile(r"\d{1,15}", re.ASCII)
_DECIMAL = re.compile(r"\d{1,15}(?:\.\d{1,15})?", re.ASCII)
_IN_PARENTHESES = re.compile(r"\([^()]*\)")
_STATE_FLAGS = re.compile(r"[+*~#!%$@^-]")
_NOTHING = ("", "(null)", "N/A", "NONE", "none")


class Node(NamedTuple):
    """One node."""

    name: str
    cpus: int
    """CPUs that jobs may use, as Slurm counts them; without those that the system keeps."""
    sockets: int
    threads_per_core: int
    memory_mib: int
    gpus: int
    gpu_type: str
    features: frozenset[str]
    partitions: frozenset[str]
    state: str

    @property
    def exists(self) -> bool:
        """False where the node is only planned; those that are down or drained come back."""
        return "FUTURE" not in _STATE_FLAGS.split(self.state.upper())


class Partition(NamedTuple):
    """One partition. A limit of None is no limit, or one that was not understood."""

    name: str
    default: bool
    up: bool
    hidden: bool
    exclusive: bool
    """A job has its nodes for itself."""
    max_time_s: float | None
    default_time_s: float | None
    max_nodes: int | None
    min_nodes: int
    qos: str
    """The partition's own QOS, whose limits hold for every job in it."""
    allow_qos: frozenset[str] | None
    """None: all."""
    deny_qos: frozenset[str]
    allow_accounts: frozenset[str] | None
    deny_accounts: frozenset[str]


class QosRow(NamedTuple):
    """One QOS of the accounting."""

    name: str
    flags: frozenset[str]
    usage_factor: float | None
    max_wall_s: float | None
    max_nodes: int | None
    """Nodes of one job."""
    min_nodes: int | None
    max_submit: int | None
    """Jobs that a user may have queued."""


class Association(NamedTuple):
    """What one account gives this user, in one partition or ("") in all."""

    account: str
    partition: str
    qos: frozenset[str]
    default_qos: str
    max_wall_s: float | None
    max_submit: int | None


# ---------------------------------------------------------------- scontrol


def parse_config(text: str) -> dict[str, str]:
    """Parse `scontrol show config`: "Key = value" lines; of a key that comes twice, the first."""
    config: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip():
            config.setdefault(key.strip(), value.strip())
    return config


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """Parse `scontrol show partition`, with or without --oneliner."""
    return tuple(_partition(fields) for fields in _records(text, "PartitionName"))


def _partition(fields: dict[str, str]) -> Partition:
    max_nodes = whole(fields.get("MaxNodes", ""))
    return Partition(
        name=fields["PartitionName"],
        default=fields.get("Default") == "YES",
        up=fields.get("State", "UP") == "UP",
        hidden=fields.get("Hidden") == "YES",
        exclusive=fields.get("OverSubscribe", "") == "EXCLUSIVE",
        max_time_s=seconds(fields.get("MaxTime", "")),
        default_time_s=seconds(fields.get("DefaultTime", "")),
        max_nodes=max_nodes,
        min_nodes=whole(fields.get("MinNodes", "")) or 1,
        qos="" if fields.get("QoS", "") in _NOTHING else fields["QoS"],
        allow_qos=_allowed(fields.get("AllowQos", "ALL")),
        deny_qos=frozenset(words(fields.get("DenyQos", ""))),
        allow_accounts=_allowed(fields.get("AllowAccounts", "ALL")),
        deny_accounts=frozenset(words(fields.get("DenyAccounts", ""))),
    )


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Parse `scontrol show node`, with or without --oneliner."""
    return tuple(_node(fields) for fields in _records(text, "NodeName"))


def _node(fields: dict[str, str]) -> Node:
    threads = whole(fields.get("ThreadsPerCore", "")) or 1
    total = whole(fields.get("CPUTot", "")) or 0
    # CPUEfctv came with 22.05; before, what the system keeps is said in cores.
    kept = (whole(fields.get("CoreSpecCount", "")) or 0) * threads
    gpus, gpu_type = parse_gres(fields.get("Gres", ""))
    return Node(
        name=fields["NodeName"],
        cpus=whole(fields.get("CPUEfctv", "")) or max(total - kept, 0),
        sockets=whole(fields.get("Sockets", "")) or 1,
        threads_per_core=threads,
        memory_mib=max((whole(fields.get("RealMemory", "")) or 0) - (whole(fields.get("MemSpecLimit", "")) or 0), 0),
        gpus=gpus,
        gpu_type=gpu_type,
        features=frozenset(words(fields.get("AvailableFeatures", fields.get("Features", "")))),
        partitions=frozenset(words(fields.get("Partitions", ""))),
        state=fields.get("State", ""),
    )


def parse_sinfo(text: str) -> tuple[Node, ...]:
    """Parse `sinfo --Node` with the format that `ask` gives it: a line for each node and partition."""
    nodes: dict[str, Node] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) != 9 or not parts[0]:
            continue
        name, partition, cpus, sockets, threads, memory, features, gres, state = parts
        gpus, gpu_type = parse_gres(gres)
        known = nodes[name].partitions if name in nodes else frozenset()
        nodes[name] = Node(
            name=name,
            cpus=whole(cpus) or 0,
            sockets=whole(sockets) or 1,
            threads_per_core=whole(threads) or 1,
            memory_mib=whole(memory) or 0,
            gpus=gpus,
            gpu_type=gpu_type,
            features=frozenset(words(features)),
            partitions=known | {partition.removesuffix("*")},
            state=state,
        )
    return tuple(nodes.values())


def parse_gres(text: str) -> tuple[int, str]:
    """Parse "gpu:a100:4(S:0-1),craynetwork:4" into the number of GPUs and their type ("" where there are several)."""
    number, types = 0, set()
    for item in _IN_PARENTHESES.sub("", text).split(","):
        parts = item.strip().removeprefix("gres:").removeprefix("gres/").split(":")
        if parts[0] != "gpu":
            continue
        count = whole(parts[-1]) if len(parts) > 1 else None
        number += 1 if count is None else count
        types.add(":".join(parts[1:] if count is None else parts[1:-1]))
    return number, types.pop() if len(types) == 1 else ""


def _records(text: str, first: str) -> Iterator[dict[str, str]]:
    """Split scontrol's answer into records that begin with `first`, a line or several each."""
    record = ""
    for line in [*text.splitlines(), f"{first}="]:
        if line.startswith(f"{first}="):
            fields = _fields(record)
            if fields.get(first):
                yield fields
            record = line
        elif record:
            record += " " + line.strip()


def _fields(record: str) -> dict[str, str]:
    """Split "A=1 B=two words C=3". A reason or comment at the end may hold anything: the first of a key counts."""
    found = list(_FIELD.finditer(record))
    fields: dict[str, str] = {}
    ends = [after.start() for after in found[1:]]
    for here, end in zip(found, [*ends, len(record)], strict=False):
        fields.setdefault(here[1], record[here.end() : end].strip())
    return fields


# ---------------------------------------------------------------- sacctmgr


def parse_qos(text: str) -> tuple[QosRow, ...]:
    """Parse `sacctmgr --parsable2 show qos`."""
    return tuple(
        QosRow(
            name=row["name"],
            flags=frozenset(words(row.get("flags", ""))),
            usage_factor=float(factor) if _DECIMAL.fullmatch(factor := row.get("usagefactor", "")) else None,
            max_wall_s=seconds(row.get("maxwall", "")),
            max_nodes=_tres(row.get("maxtres", ""), "node"),
            min_nodes=_tres(row.get("mintres", ""), "node"),
            max_submit=whole(row.get("maxsubmitpu", "")),
        )
        for row in _table(text)
        if row.get("name")
    )


def parse_associations(text: str, cluster: str) -> tuple[Association, ...]:
    """Parse `sacctmgr --parsable2 show assoc`; those of other clusters are left out."""
    return tuple(
        Association(
            account=row["account"],
            partition=row.get("partition", ""),
            qos=frozenset(words(row.get("qos", ""))),
            default_qos=row.get("defqos", ""),
            max_wall_s=seconds(row.get("maxwall", "")),
            max_submit=whole(row.get("maxsubmit", "")),
        )
        for row in _table(text)
        # The accounting keeps names of clusters in lower case.
        if row.get("account") and (not cluster or row.get("cluster", "").lower() in ("", cluster.lower()))
    )


def parse_default_account(text: str) -> str:
    """Parse `sacctmgr --parsable2 show user NAME`: the account that is charged when none is named."""
    return next((row.get("defacct", row.get("defaultaccount", "")) for row in _table(text)), "")


def _table(text: str) -> Iterator[dict[str, str]]:
    """Yield rows by the names in the header, in lower case and without blanks ("Def QOS" has one)."""
    lines = text.splitlines()
    names = [name.strip().lower().replace(" ", "") for name in lines[0].split("|")] if lines else []
    for line in lines[1:]:
        values = [value.strip() for value in line.split("|")]
        if len(values) >= len([name for name in names if name]):
            yield dict(zip(names, values, strict=False))


# ---------------------------------------------------------------- values


def seconds(text: str) -> float | None:
    """Parse a time limit; None for no limit (UNLIMITED, infinite, N/A, nothing) and for what is no time."""
    try:
        return parse_duration(text)
    except ValueError:
        return None


def whole(text: str) -> int | None:
    """Return a whole number; None where it is none."""
    match = _NUMBER.fullmatch(text.strip())
    return int(match[0]) if match else None


def words(text: str) -> list[str]:
    """Return the words of a list with commas; none where Slurm writes that there is nothing."""
    return [word.strip() for word in text.split(",") if word.strip() not in _NOTHING]


def _allowed(text: str) -> frozenset[str] | None:
    return None if text in ("ALL", *_NOTHING) else frozenset(words(text))


def _tres(text: str, name: str) -> int | None:
    """Read "cpu=8,node=4" at a name."""
    pairs = dict(item.partition("=")[::2] for item in text.split(","))
    return whole(pairs.get(name, ""))
