"""dask-jobqueue's SLURMCluster, whose job is the script that the plan rendered for the profile. Imports Dask.

Its own job script is not used: it is of one node, knows no site's modules, and lets a newline of a value become a
command.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dask_jobqueue.slurm import SLURMCluster, SLURMJob

from hpcpar.outer_job import clean_environment


class Orders(NamedTuple):
    """What the workers' job is submitted with."""

    script: Path
    """worker.sh of the batch."""
    run_name: str
    attempt: str
    job_name: str
    logs: Path
    refused: list[str]
    """What Slurm said where it took a job not."""


class WorkerJob(SLURMJob):
    """All workers of a run: one job, so that they begin together, each node once."""

    def __init__(self, scheduler: Any = None, name: Any = None, *, orders: Orders, **more: Any) -> None:
        super().__init__(scheduler, name, **more)
        self._orders = orders

    def job_script(self) -> str:
        """Return what is submitted."""
        return self._orders.script.read_text()

    @contextlib.contextmanager
    def job_file(self) -> Iterator[str]:
        """Yield its path."""
        yield str(self._orders.script)

    async def _submit_job(self, script_filename: str) -> str:
        own = self._orders
        log = str(own.logs).replace("%", "%%") + f"/{own.attempt}.{self.name}.job.log"
        words = ["sbatch", "--parsable", f"--job-name={own.job_name}", f"--output={log}"]
        try:
            answer: str = await self._call(
                [*words, script_filename, own.run_name, own.attempt, str(self.name)], env=clean_environment()
            )
        except (OSError, RuntimeError) as error:
            own.refused.append(str(error))
            raise
        return answer


class WorkerJobs(SLURMCluster):
    """That job, and Dask's scheduler in this process."""

    job_cls = WorkerJob

    def _get_worker_security(self, security: Any) -> None:
        """Write no keys: the driver publishes its own."""
