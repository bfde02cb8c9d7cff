"""The allocation: what is left of the hours that an account was given, beside what would be submitted.

Slurm takes a job that its account cannot pay and lets it wait for ever (AssocGrpCPUMinutesLimit and its like). The
limits and what is used of them are in `scontrol show assoc_mgr` (GrpTRESMins, in minutes of each resource).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from hpcpar.control.gate.checks import Case, Finding, Shot
from hpcpar.errors import Problem

_FIELD = re.compile(r"(\w+)=(\S*)")
_AMOUNT = re.compile(r"([\w/.-]+)=(\d{1,15})\((\d{1,15})\)", re.ASCII)
"""NAME=LIMIT(USED); a resource without a limit has N in its place."""
_NAMES = {"cpu": "CPU-hours", "node": "node-hours", "gres/gpu": "GPU-hours"}
"""What a job uses of each can be told from its request; billing and memory depend on weights of the site."""


class Account(NamedTuple):
    """One record of the association manager."""

    name: str
    user: str
    """Whose share of it; "" is the account itself."""
    partition: str
    parent: str
    left_min: dict[str, float]
    """Minutes that are left of each resource that has a limit."""


def parse(text: str) -> list[Account]:
    """Parse `scontrol show assoc_mgr flags=assoc`; what makes no sense is left out."""
    found = []
    for record in text.split("ClusterName=")[1:]:
        fields = dict(_FIELD.findall(record))
        minutes = {
            name: float(limit) - float(used) for name, limit, used in _AMOUNT.findall(fields.get("GrpTRESMins", ""))
        }
        name, user, parent = (fields.get(key, "").partition("(")[0] for key in ("Account", "UserName", "ParentAccount"))
        found.append(Account(name, user, fields.get("Partition", ""), parent, minutes))
    return found


def budget_findings(case: Case, accounts: list[Account], default_account: str, user: str) -> Iterator[Finding]:
    """Compare what would be sent with what is left. Pure."""
    whole: dict[tuple[tuple[str, str, str], str], float] = {}
    for shot in case.shots:
        for account in _charged(shot.resources.account or default_account, shot.resources.partition, user, accounts):
            for resource, one_min in _minutes(shot).items():
                left = account.left_min.get(resource)
                if left is None:
                    continue
                label = f"account {account.name}"
                if one_min > left:
                    what = f"one job may use {_hours(one_min)} {_NAMES[resource]}, and {_hours(left)} are left"
                    yield Finding(
                        "error", Problem(label, f"{what}: it would wait for ever", "a shorter --time, fewer --nodes")
                    )
                whole[_key(account), resource] = whole.get((_key(account), resource), 0.0) + one_min * shot.num_runs
    by_key = {_key(account): account for account in accounts}
    for (key, resource), minutes in whole.items():
        left = by_key[key].left_min[resource]
        if minutes > left:
            what = f"all jobs together may use {_hours(minutes)} {_NAMES[resource]}, and {_hours(left)} are left"
            yield Finding(
                "warning",
                Problem(f"account {key[0]}", what, "jobs end sooner than their limits, mostly; see `hpcpar plan`"),
            )


def _key(account: Account) -> tuple[str, str, str]:
    return account.name, account.user, account.partition


def _charged(name: str, partition: str, user: str, accounts: list[Account]) -> Iterator[Account]:
    """Yield the records whose limits a job is held to: the user's share, the account, and those above it."""
    seen: set[str] = set()
    while name and name not in seen:
        seen.add(name)
        mine = [one for one in accounts if one.name == name and one.user in ("", user)]
        yield from (one for one in mine if one.partition in ("", partition))
        name = next((one.parent for one in mine if not one.user), "")


def _minutes(shot: Shot) -> dict[str, float]:
    """Return what one job may use of each resource, in minutes: its request for its whole time limit."""
    asked, minutes = shot.resources, shot.resources.time_s / 60
    whole = shot.node_type.whole_nodes and shot.node_type.usable_cpus
    cpus = shot.node_type.usable_cpus if whole else asked.ranks_per_node * asked.cpus_per_rank
    amounts = {"cpu": asked.nodes * (cpus or 0), "node": asked.nodes, "gres/gpu": asked.nodes * asked.gpus_per_node}
    return {name: amount * minutes for name, amount in amounts.items() if amount}


def _hours(minutes: float) -> str:
    return f"{max(0.0, minutes) / 60:,.1f}" if math.isfinite(minutes) else "no"
