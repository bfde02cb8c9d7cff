"""What Slurm itself says of a job before it is sent: `sbatch --test-only`, and the limits that this does not look at.

--test-only finds partitions, accounts, QOS, constraints and sizes that do not exist. It accepts a time limit past the
partition's, where limits are not enforced at submission: such a job waits for ever.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from hpcpar.control import slurm
from hpcpar.control.cluster import machine as machines
from hpcpar.control.cluster.answers import Association, Partition, QosRow
from hpcpar.control.cluster.machine import Machine
from hpcpar.control.gate import allocation
from hpcpar.control.gate.checks import Case, Finding, Shot
from hpcpar.errors import NoSchedulerError, Problem, SchedulerError
from hpcpar.spec import Resources
from hpcpar.units import slurm_time

_UNREACHED = re.compile(r"unable to contact|unknown host|connection refused|connect failure|could not resolve", re.I)
"""What a client says when it has not spoken to a controller at all."""


class _Wall(NamedTuple):
    """A limit of time, and whose it is."""

    seconds: float
    whose: str


def test_only(case: Case) -> Iterator[Finding]:
    """Yield what Slurm would refuse: one `sbatch --test-only` for each script."""
    for shot in case.shots:
        try:
            slurm.test_only(shot.text)
        except (SchedulerError, NoSchedulerError) as error:
            yield _refused(case, shot, error)


def _refused(case: Case, shot: Shot, error: Exception) -> Finding:
    nodes, runs = shot.resources.nodes, shot.num_runs
    label = f"{case.where}: {nodes} node{'s' * (nodes > 1)}, {runs} run{'s' * (runs > 1)}"
    words = " ".join(error.stderr.split()) if isinstance(error, SchedulerError) else str(error)
    if not isinstance(error, SchedulerError) or slurm.lost_answer(error) or _UNREACHED.search(words):
        return Finding("unchecked", Problem(label, f"sbatch --test-only gave no answer: {words}"))
    return Finding(
        "error", Problem(label, f"Slurm would refuse it: {words}", "`hpcpar cluster verify` shows what differs")
    )


def limits(case: Case) -> Iterator[Finding]:
    """Yield the limits that --test-only does not look at."""
    try:
        machine = machines.ask(nodes=False, allocations=True)
    except (SchedulerError, NoSchedulerError) as error:
        words = " ".join(error.stderr.split()) if isinstance(error, SchedulerError) else str(error)
        yield Finding("unchecked", Problem("limits", f"Slurm does not answer: {words}"))
        return
    yield from limit_findings(case, machine)
    for text in machine.silent:
        yield Finding("unchecked", Problem("limits", text))


def limit_findings(case: Case, machine: Machine) -> Iterator[Finding]:
    """Compare what would be sent with the limits of partition, QOS and association. Pure."""
    for resources in dict.fromkeys(shot.resources for shot in case.shots):
        yield from _one_shape(case, resources, machine)
    yield from _too_many(case, machine)
    if "limits" in machine.enforces:
        accounts = allocation.parse(machine.allocations)
        yield from allocation.budget_findings(case, accounts, machine.default_account, machine.user)
    ports = machine.config.get("SrunPortRange", "0-0")
    if any(shot.resources.nodes > 1 for shot in case.shots) and ports not in ("0-0", "(null)", ""):
        what = f"the site limits srun to ports {ports}: if its nodes block others, ranks cannot meet"
        yield Finding("warning", Problem(case.where, what, "ask the site; rank 0 listens on any free port"))


class _Held(NamedTuple):
    """What a job of one shape is held to."""

    partition: Partition | None
    own: QosRow | None
    """The partition's QOS."""
    job: QosRow | None
    association: Association | None

    def rows(self) -> list[QosRow]:
        """Return the QOS in Slurm's order: the partition's before the job's, unless the job's says otherwise."""
        # slurm.schedmd.com/resource_limits.html: the first that sets a limit decides.
        order = [self.own, self.job]
        if self.job is not None and "OverPartQOS" in self.job.flags:
            order.reverse()
        return [row for row in order if row is not None]


def _held(resources: Resources, machine: Machine) -> _Held:
    partition = machine.partition(resources.partition)
    name = partition.name if partition else resources.partition
    association = machine.association(resources.account, name)
    qos = resources.qos or (association.default_qos if association else "")
    own = machine.qos_row(partition.qos) if partition and partition.qos else None
    return _Held(partition, own, machine.qos_row(qos), association)


def _one_shape(case: Case, resources: Resources, machine: Machine) -> Iterator[Finding]:
    held = _held(resources, machine)
    label = f"{case.where}: {resources.nodes} node{'s' * (resources.nodes > 1)}"
    if held.partition is not None and not held.partition.up:
        what = f"partition {held.partition.name} takes no jobs at present: they would wait"
        yield Finding("warning", Problem(label, what, "another --partition, or wait"))
    wall = wall_limit(held, machine)
    if wall is not None and resources.time_s > wall.seconds:
        asked, allowed = slurm_time(resources.time_s), slurm_time(wall.seconds)
        what = f"{asked} is longer than {wall.whose} allows ({allowed}): the job would wait for ever"
        yield Finding("error", Problem(label, what, f"--time {allowed} or less"))
    most = held.partition.max_nodes if held.partition else None
    least = held.partition.min_nodes if held.partition else 1
    if (most is not None and resources.nodes > most) or resources.nodes < least:
        assert held.partition is not None
        what = f"partition {held.partition.name} takes jobs of {least} to {most or 'any number of'} nodes"
        yield Finding("error", Problem(label, what, "another --partition or --nodes"))


def wall_limit(held: _Held, machine: Machine) -> _Wall | None:
    """Return the longest time that a job may ask for: the partition's, and that of QOS or association."""
    walls = []
    overruled = any("PartitionTimeLimit" in row.flags for row in held.rows())
    if held.partition is not None and held.partition.max_time_s is not None and not overruled:
        walls.append(_Wall(held.partition.max_time_s, f"partition {held.partition.name}"))
    if "limits" in machine.enforces:
        found = [_Wall(row.max_wall_s, f"QOS {row.name}") for row in held.rows() if row.max_wall_s is not None]
        if held.association is not None and held.association.max_wall_s is not None:
            found.append(_Wall(held.association.max_wall_s, f"account {held.association.account}"))
        walls += found[:1]
    return min(walls, default=None)


def _too_many(case: Case, machine: Machine) -> Iterator[Finding]:
    """Yield limits on the number of queued jobs; every task of an array counts."""
    if "limits" not in machine.enforces:
        return
    sent: Counter[tuple[int, str]] = Counter()
    for shot in case.shots:
        held = _held(shot.resources, machine)
        found = [(row.max_submit, f"QOS {row.name}") for row in held.rows() if row.max_submit is not None]
        if held.association is not None and held.association.max_submit is not None:
            found.append((held.association.max_submit, f"account {held.association.account}"))
        for limit, whose in found:
            sent[limit, whose] += shot.num_runs
    for (limit, whose), number in sent.items():
        if number > limit:
            what = f"{number} runs, and {whose} lets you queue {limit} jobs"
            yield Finding("error", Problem(case.where, what, f"--max-queued {limit} sends it in parts"))
