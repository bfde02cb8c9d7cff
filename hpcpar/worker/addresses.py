"""Under which addresses the nodes of a job are reached, and from which they speak."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

from hpcpar.spec import RunSpec
from hpcpar.worker.rank import RankInfo

LOOPBACK = "127.0.0.1"
_SCONTROL_S = 10.0
_LOOKUPS = 16
"""Names that are looked up at a time."""


def one_machine(info: RankInfo) -> bool:
    """Say whether all ranks share a network stack, so that 127.0.0.1 is the same to all of them."""
    return info.nodes == 1 or info.scheduler == "local"


def addresses_to_meet_at(spec: RunSpec, info: RankInfo) -> list[str]:
    """List the addresses on which rank 0 may be reached by the others, the best one first."""
    return [LOOPBACK] if one_machine(info) else addresses_of_node(spec, info)


def addresses_of_node(spec: RunSpec, info: RankInfo) -> list[str]:
    """List the addresses on which rank 0 may be reached from other nodes, the best one first.

    The node's own name as the scheduler knows it, then the scheduler's address of the node that runs the job script. A
    loopback address comes last: it is right only where all nodes are the same machine (a test cluster).
    """
    names = dict.fromkeys([info.node_name + spec.host_suffix, info.node_name, info.launch_address])
    found = list(dict.fromkeys(address for name in names if name for address in _resolve(name)))
    return sorted(found, key=lambda address: ipaddress.ip_address(address).is_loopback)


def addresses_of_job(spec: RunSpec, info: RankInfo, like: str) -> tuple[set[str], list[str]]:
    """Return the addresses of the job's nodes, by their names or as the scheduler has them; and whose are not known.

    Args:
        spec: the run.
        info: this rank.
        like: an address of the family that counts; no node speaks to it from another.
    """
    with ThreadPoolExecutor(_LOOKUPS) as threads:
        found = dict(zip(info.hostnames, threads.map(lambda n: _resolve_either(n, spec), info.hostnames), strict=True))
    found = {name: _alike(own, like) for name, own in found.items()}
    if unknown := [name for name, own in found.items() if not own]:
        found |= {name: _alike(own, like) for name, own in _scheduler_addresses(unknown).items()}
    known = {address for own in found.values() for address in own}
    return known, [name for name, own in found.items() if not own]


def _alike(addresses: list[str], like: str) -> list[str]:
    return [address for address in addresses if (":" in address) == (":" in like)]


def _resolve_either(name: str, spec: RunSpec) -> list[str]:
    return [*_resolve(name + spec.host_suffix), *(_resolve(name) if spec.host_suffix else ())]


def _scheduler_addresses(names: list[str]) -> dict[str, list[str]]:
    """Return the addresses that Slurm itself uses for these nodes: none where it does not say."""
    command = ["scontrol", "--oneliner", "show", "node", ",".join(names)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_SCONTROL_S)
        told = done.stdout.decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        told = ""
    pairs = dict(re.findall(r"^NodeName=(\S+) .*?\bNodeAddr=(\S+)", told, re.MULTILINE))
    return {name: _resolve(pairs[name]) if name in pairs else [] for name in names}


def source_address(host: str, port: int) -> str:
    """Return the address from which this node speaks to that one; "" where there is no way to it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))  # sends nothing
        return str(probe.getsockname()[0])
    return ""


def _resolve(name: str) -> list[str]:
    try:
        entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # UnicodeError: a name that none can be
        return []
    found = [str(entry[4][0]) for entry in entries]
    return sorted((address for address in found if "%" not in address), key=lambda address: ":" in address)
