"""The machine that Slurm schedules: asked once, all questions at the same time (answers.py reads what it says)."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from hpcpar.control import slurm
from hpcpar.control.cluster import answers as read
from hpcpar.control.cluster.answers import Association, Node, Partition, QosRow, whole, words
from hpcpar.errors import HpcparError, NoSchedulerError, SchedulerError


class Machine(NamedTuple):
    """All that was answered; `silent` says what was not, and why."""

    config: dict[str, str]
    partitions: tuple[Partition, ...]
    nodes: tuple[Node, ...]
    qos: tuple[QosRow, ...]
    associations: tuple[Association, ...]
    default_account: str
    silent: tuple[str, ...]
    user: str = ""
    """Who asked."""
    allocations: str = ""
    """What `scontrol show assoc_mgr` says; "" where it was not asked (control/gate/allocation.py reads it)."""

    @property
    def version(self) -> str:
        """Slurm's version, or ""."""
        return self.config.get("SLURM_VERSION", "")

    @property
    def max_array_size(self) -> int | None:
        """The largest array index is one less."""
        return whole(self.config.get("MaxArraySize", ""))

    @property
    def enforces(self) -> frozenset[str]:
        """What the accounting holds jobs to: associations, limits, qos, ..."""
        return frozenset(words(self.config.get("AccountingStorageEnforce", "")))

    @property
    def refuses_at_submission(self) -> bool:
        """False: a job past a partition's limit is taken all the same and waits for ever (EnforcePartLimits=NO)."""
        return self.config.get("EnforcePartLimits", "").upper() not in ("NO", "")

    def partition(self, name: str) -> Partition | None:
        """Return the partition of that name, or for "" the default one."""
        return next((p for p in self.partitions if (p.name == name if name else p.default)), None)

    def qos_row(self, name: str) -> QosRow | None:
        """Return the QOS of that name."""
        return next((row for row in self.qos if row.name == name), None)

    def association(self, account: str, partition: str) -> Association | None:
        """Return what holds for a job: the association for the partition before the one for all."""
        account = account or self.default_account
        found = [a for a in self.associations if a.account == account and a.partition in ("", partition)]
        return max(found, key=lambda a: bool(a.partition), default=None)


def ask(*, nodes: bool = True, allocations: bool = False) -> Machine:
    """Ask Slurm about the machine: four calls and, for the nodes, a fifth, at the same time.

    Args:
        nodes: also list the nodes, a line each.
        allocations: also what is used of the accounts' limits.

    Raises:
        NoSchedulerError: there is no scontrol here.
        SchedulerError: not even the configuration was answered.
    """
    if not slurm.have("scontrol"):
        raise NoSchedulerError("scontrol")
    user = _user()
    questions: dict[str, Callable[[], str]] = {
        "scontrol show config": lambda: slurm.scontrol_show("config"),
        "scontrol show partition": lambda: slurm.scontrol_show("partition"),
        "sacctmgr show qos": lambda: slurm.sacctmgr_show("qos"),
        "sacctmgr show assoc": lambda: slurm.sacctmgr_show("assoc", f"user={user}"),
        "sacctmgr show user": lambda: slurm.sacctmgr_show("user", user),
    }
    if nodes:
        questions["scontrol show node"] = lambda: slurm.scontrol_show("node")
    if allocations:
        questions["scontrol show assoc_mgr"] = lambda: slurm.scontrol_show("assoc_mgr", "flags=assoc")
    answers, silent = _answers(questions)
    if "scontrol show config" not in answers:
        raise SchedulerError("scontrol", next(why for why in silent if why.startswith("scontrol show config")))
    found = read.parse_nodes(answers.get("scontrol show node", ""))
    if nodes and not found:  # some sites keep `scontrol show node` to themselves
        more, unheard = _answers({"sinfo": lambda: slurm.sinfo_nodes(read.SINFO_FIELDS)})
        found, silent = read.parse_sinfo(more.get("sinfo", "")), (*silent, *unheard)
    config = read.parse_config(answers["scontrol show config"])
    return Machine(
        config=config,
        partitions=read.parse_partitions(answers.get("scontrol show partition", "")),
        nodes=found,
        qos=read.parse_qos(answers.get("sacctmgr show qos", "")),
        associations=read.parse_associations(answers.get("sacctmgr show assoc", ""), config.get("ClusterName", "")),
        default_account=read.parse_default_account(answers.get("sacctmgr show user", "")),
        silent=silent,
        user=user,
        allocations=answers.get("scontrol show assoc_mgr", ""),
    )


def _answers(questions: dict[str, Callable[[], str]]) -> tuple[dict[str, str], tuple[str, ...]]:
    answers: dict[str, str] = {}
    silent = []
    with ThreadPoolExecutor(len(questions)) as pool:
        asked = {name: pool.submit(question) for name, question in questions.items()}
        for name, answer in asked.items():
            try:
                answers[name] = answer.result()
            except HpcparError as error:
                words = error.stderr if isinstance(error, SchedulerError) else str(error)
                silent.append(f"{name}: {words.splitlines()[0] if words else 'no reason given'}")
    return answers, tuple(silent)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a number without a name
        return str(os.getuid())
