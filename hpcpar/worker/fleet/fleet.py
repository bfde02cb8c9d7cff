"""A driver's workers from their start to their end: they come within a stated time, are watched, and are sent home.

Workers are numbered as ranks are: by node, then within it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from hpcpar.errors import RunError
from hpcpar.records import Cause, RankFacts
from hpcpar.runs import WORKER_SCRIPT_VARIABLE, worker_tag
from hpcpar.worker import facts
from hpcpar.worker.addresses import LOOPBACK, addresses_of_node
from hpcpar.worker.context import JobContext
from hpcpar.worker.facts import RankReport
from hpcpar.worker.fleet import contact
from hpcpar.worker.measure.memory import peak_memory_bytes
from hpcpar.worker.rank import RankInfo

_LOOK_S = 0.05
_PART_WITHIN_S = 10


def patience_s(time_limit_s: float) -> float:
    """Return how long a driver waits for its workers' job to start: half of its time limit."""
    return time_limit_s / 2


class Fleet:
    """Workers that have all come, and Dask's client to speak to them; also a run's `crew` (registry.Trainer)."""

    def __init__(self, context: JobContext, cluster: Any) -> None:
        self._context, self._cluster = context, cluster
        self._place = context.folder.fleet(context.info.attempt)
        self.client: Any = None
        self.addresses: list[str] = []
        """Dask's addresses of the workers, by number."""
        self.reports: list[RankReport] = []
        self._cpu_s: list[float] = []
        self._begun = 0.0

    def await_all(self, refused: Sequence[str]) -> None:
        """Wait until all workers have come.

        Raises:
            RunError: Slurm refused a job, or they did not come in time.
        """
        wanted, spec = self._context.identity.world_size, self._context.folder.spec()
        deadline = time.monotonic() + patience_s(spec.time_s)
        while len(self._cluster.scheduler.workers) < wanted:
            if refused:
                what = f"the workers' job could not be submitted from {self._context.info.node_name}"
                raise RunError(Cause.LAUNCH, f"{what}: {' '.join(refused[0].split())}")
            if time.monotonic() > deadline:
                come = len(self._cluster.scheduler.workers)
                what = f"{come} of {wanted} workers came within {patience_s(spec.time_s):g} s (half of the time limit)"
                raise RunError(Cause.LAUNCH, f"{what}: their job still waits in the queue, or see logs/ of the run")
            time.sleep(_LOOK_S)
        self.client = self._cluster.get_client()
        workers = {str(state.name): address for address, state in list(self._cluster.scheduler.workers.items())}
        self.addresses = [workers[name] for name in sorted(workers, key=_natural)]
        self.reports = self.everywhere(_describe, [(self._context.info, rank) for rank in range(wanted)])

    def everywhere(self, what: Callable[..., Any], arguments: Sequence[tuple[Any, ...]] = ()) -> list[Any]:
        """Call a function on every worker, with its own arguments, and return the answers by number.

        Raises:
            RunError: a worker was lost meanwhile.
        """
        return self.answers(self.send(what, arguments))

    def send(self, what: Callable[..., Any], arguments: Sequence[tuple[Any, ...]] = ()) -> list[Any]:
        """Have a function called on every worker; return the futures, whose values stay there."""
        own = arguments or [()] * len(self.addresses)
        return [
            self.client.submit(what, *words, workers=[address], pure=False)
            for address, words in zip(self.addresses, own, strict=True)
        ]

    def answers(self, futures: Sequence[Any]) -> list[Any]:
        """Wait for futures and return their values; errors as `everywhere`."""
        self.settled(futures)
        return list(self.client.gather(list(futures)))

    def settled(self, futures: Sequence[Any]) -> None:
        """Wait until nothing of these is left to do; errors as `everywhere`."""
        while not all(future.done() for future in futures):
            self.check()
            time.sleep(_LOOK_S / 5)

    def check(self) -> None:
        """Look whether all workers are still there.

        Raises:
            RunError: one is gone.
        """
        present = self._cluster.scheduler.workers
        lost = [rank for rank, address in enumerate(self.addresses) if address not in present]
        if lost:
            hosts = ", ".join(sorted({self.reports[rank].facts.host for rank in lost if self.reports}))
            which = f"worker{'s' * (len(lost) > 1)} {', '.join(map(str, lost))}" + (f" (on {hosts})" if hosts else "")
            what = "their job ended, a node failed, or a worker was killed"
            raise RunError(Cause.NETWORK, f"{which} of {len(self.addresses)} lost: {what}; see logs/ of the run")

    def begin(self) -> None:
        """Begin to count what the workers use."""
        self._cpu_s, self._begun = self.everywhere(time.process_time), time.perf_counter()

    def facts(self, used: Any, held: dict[str, int], *, of_children: bool = False) -> list[RankFacts]:
        """Return what the workers found and used; the driver's own use is not counted."""
        wall_s = time.perf_counter() - self._begun
        rows = zip(self.reports, self.everywhere(_usage), self._cpu_s, strict=True)
        return [
            msgspec.structs.replace(
                report.facts, peak_memory_bytes=peak, train_wall_s=wall_s, train_cpu_s=cpu_s - before_s
            )
            for report, (peak, cpu_s), before_s in rows
        ]

    def close(self) -> None:
        """Send the workers home and remove what they shared. Never raises: the job script ends what is left."""
        with contextlib.suppress(Exception), self._context.phases("part"):
            with contextlib.suppress(Exception):
                if self.client is not None:
                    self.client.close(timeout=_PART_WITHIN_S)
            with contextlib.suppress(Exception):
                self._cluster.close(timeout=_PART_WITHIN_S)
            shutil.rmtree(self._place, ignore_errors=True)


def assemble(context: JobContext) -> Fleet:
    """Start the workers of this run and wait for them; a phase "workers".

    Raises:
        RunError: they did not come.
        MissingExtraError: Dask is not installed.
    """
    place: Path = context.folder.fleet(context.info.attempt)
    with context.phases("workers"):
        contact.settle(place)
        security, refused = contact.own_security(), list[str]()
        if context.info.scheduler == "slurm":
            fleet = Fleet(context, _jobs(context, security, refused))
            contact.publish(place, fleet._cluster.scheduler_address, security)
            fleet._cluster.scale(jobs=1)
        else:
            fleet = Fleet(context, _processes(context, security, place))
        try:
            fleet.await_all(refused)
        except BaseException:
            fleet.close()
            raise
    return fleet


def _jobs(context: JobContext, security: Any, refused: list[str]) -> Any:
    from hpcpar.worker.fleet.jobs import Orders, WorkerJobs

    identity, folder, attempt = context.identity, context.folder, context.info.attempt
    found = addresses_of_node(folder.spec(), context.info)
    if not found:
        raise RunError(Cause.NETWORK, f"the driver has no address: the name {context.info.node_name} does not resolve")
    script = os.environ.get(WORKER_SCRIPT_VARIABLE, "")
    orders = Orders(Path(script), folder.path.name, attempt, worker_tag(attempt), folder.logs, refused)
    return WorkerJobs(
        cores=identity.world_size * identity.cpus_per_rank,
        processes=identity.world_size,
        memory="1GB",  # must be given, and is asked for in our own script
        security=security,
        name="w",
        scheduler_options={"host": found[0], "port": 0, "dashboard": False, "dashboard_address": f"{LOOPBACK}:0"},
        orders=orders,
    )


def _processes(context: JobContext, security: Any, place: Path) -> Any:
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=context.identity.world_size,
        threads_per_worker=context.identity.cpus_per_rank,
        processes=True,
        host=LOOPBACK,
        scheduler_kwargs={"dashboard": False, "dashboard_address": f"{LOOPBACK}:0"},
        security=security,
        memory_limit=0,
        local_directory=str(place),
    )


def _natural(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _describe(info: RankInfo, rank: int) -> RankReport:
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    mine = msgspec.structs.replace(info, rank=rank, node_name=host)
    return facts.report(mine, threads=info.cpus_asked, device=SimpleNamespace(type="cpu"))


def _usage() -> tuple[int, float]:
    return peak_memory_bytes(), time.process_time()
