"""What a rank finds where it runs: the machine, the CPUs it may really use, and the versions of what it uses."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from hpcpar.records import RankFacts
from hpcpar.worker import provenance
from hpcpar.worker.rank import RankInfo

_PACKAGES = ("hpcpar", "torch", "numpy", "submitit")
_IF_USED = {
    "xgboost": "xgboost",
    "xgboost-cpu": "xgboost",
    "scikit-learn": "sklearn",
    "joblib": "joblib",
    "distributed": "distributed",
}
"""Packages that matter only to a run that has imported the module beside them."""


class Quota(NamedTuple):
    """The tightest CPU quota of a control group above this process."""

    cpus: float
    group: str
    """The same word for the processes that share it."""


class RankReport(Struct, frozen=True, kw_only=True):
    """What a rank tells rank 0 when it arrives: its facts, and what is needed to add up a machine."""

    facts: RankFacts
    affinity: tuple[int, ...]
    quota: Quota | None = None


def report(info: RankInfo, threads: int, device: Any) -> RankReport:
    """Describe this rank, which computes on this torch.device."""
    device_name, driver = provenance.device_names(device)
    affinity, quota = _affinity(), cpu_quota()
    facts = RankFacts(
        rank=info.rank,
        host=info.node_name,
        boot_id=_boot_id(),
        usable_cpus=_usable(affinity, quota),
        cpus_asked=info.cpus_asked,
        threads=threads,
        device=device.type,
        processor=provenance.processor(),
        device_name=device_name,
        driver=driver,
    )
    return RankReport(facts=facts, affinity=affinity, quota=quota)


def usable_cpus() -> int:
    """Return how many CPUs this process may use at once: its affinity mask and its control groups, never the machine's
    number."""
    return _usable(_affinity(), cpu_quota())


def _usable(affinity: Sequence[int], quota: Quota | None) -> int:
    return len(affinity) if quota is None else min(len(affinity), max(1, int(quota.cpus)))


def _affinity() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def cpu_quota(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Quota | None:
    """Return the tightest CPU quota of the control groups above this process, or None.

    Source: Linux kernel documentation, cgroup-v2.rst "cpu.max" and sched-bwc.rst "cpu.cfs_quota_us".
    """
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    found: list[Quota] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _quotas_above(root, path)
        elif "cpu" in controllers.split(","):
            found += _quotas_above(root / controllers, path) + _quotas_above(root / "cpu", path)
    return min(found, default=None)


def _quotas_above(mount: Path, path: str) -> list[Quota]:
    inner = mount / path.lstrip("/")
    # In a container the path may belong to the host's view; the mount point itself is then the group.
    folders = [inner, *(parent for parent in inner.parents if parent.is_relative_to(mount))]
    quotas = ((folder, _quota(folder)) for folder in folders)
    return [Quota(cpus, _identify(folder)) for folder, cpus in quotas if cpus is not None]


def _identify(folder: Path) -> str:
    status = folder.stat()  # the inode tells groups apart that containers all call "/"
    return f"{status.st_dev}:{status.st_ino}"


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()[:2]
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def oversubscribed(reports: Sequence[RankReport]) -> bool:
    """Say whether the threads of some physical machine's ranks outnumber the CPUs that they may use together."""
    machines: dict[str, list[RankReport]] = defaultdict(list)
    for entry in reports:
        machines[entry.facts.boot_id].append(entry)
    return any(sum(r.facts.threads for r in ranks) > _capacity(ranks) for ranks in machines.values())


def _capacity(ranks: Sequence[RankReport]) -> float:
    cpus: float = len({cpu for entry in ranks for cpu in entry.affinity})
    if all(entry.quota is not None for entry in ranks):
        quotas = {entry.quota.group: entry.quota.cpus for entry in ranks if entry.quota is not None}
        cpus = min(cpus, sum(quotas.values()))
    return cpus


def shortage_notes(reports: Sequence[RankReport]) -> list[str]:
    """Return a sentence where ranks may use fewer CPUs than the job asked for: the scheduler's binding is wrong."""
    short = [r.facts for r in reports if r.facts.usable_cpus < r.facts.cpus_asked]
    if not short:
        return []
    worst = min(short, key=lambda facts: facts.usable_cpus)
    return [
        f"{len(short)} of {len(reports)} ranks may use fewer CPUs than asked: rank {worst.rank} on {worst.host} "
        f"may use {worst.usable_cpus} of {worst.cpus_asked}; look at srun's --cpus-per-task and --cpu-bind"
    ]


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python and of the packages that matter to a result; `more` are those of the strategy."""
    found = {"python": platform.python_version()}
    used = [package for package, module in _IF_USED.items() if module in sys.modules]
    for package in dict.fromkeys((*_PACKAGES, *more, *used)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | _of_torch()


def _of_torch() -> dict[str, str]:
    """Return the versions of what torch was built with for GPUs; {} for a build without."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or torch.version.cuda is None:
        return {}
    found = {"cuda": str(torch.version.cuda)}
    if torch.cuda.is_available():
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found
