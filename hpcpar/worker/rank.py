"""Who this process is: the facts of its rank, and the only place that reads the variables of the scheduler."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from hpcpar.errors import RunError
from hpcpar.records import Cause
from hpcpar.spec import Checkpointing


class RankInfo(Struct, frozen=True, kw_only=True):
    """The place of this process in the job, as the scheduler says it. Made once by `rank_info`."""

    rank: int
    local_rank: int
    node_rank: int
    nodes: int
    world_size: int
    hostnames: tuple[str, ...]
    """The nodes of the job, as the scheduler names them."""
    attempt: str
    """JOBID[_TASK].RESTARTS: the name of everything that this execution writes."""
    job_id: str
    cpus_asked: int
    """CPUs that the job asked for each rank."""
    scheduler: str
    """"slurm" or "local"."""
    node_name: str
    """This node, as the scheduler names it."""
    checkpoint: Checkpointing | None = None
    """What the job script asks for; None: no checkpoints."""
    hang_after_s: float = 0.0
    """How long this rank may begin no step, as the study says; 0: it does not say."""
    launch_address: str = ""
    """Slurm's address of the node that runs the job script, which is rank 0's; "" elsewhere."""


def rank_info(cpus_per_rank: int) -> RankInfo:
    """Read the facts of this rank through submitit's view of the scheduler.

    Args:
        cpus_per_rank: what the plan asked for, where HPCPAR_CPUS_PER_RANK is not set.

    Raises:
        RunError: this process was not started by Slurm's srun or by hpcpar.worker.launch.
    """
    variables = os.environ
    if "SUBMITIT_EXECUTOR" not in variables and "SLURM_PROCID" in variables:
        variables["SUBMITIT_EXECUTOR"] = "slurm"  # a template of the user's own may have forgotten it
    import submitit

    try:
        job = submitit.JobEnvironment()
        return _from_environment(job.cluster, job, variables, cpus_per_rank)
    except (RuntimeError, KeyError, ValueError) as error:
        what = "no rank: start the worker with srun in a Slurm job, or with python -m hpcpar.worker.launch"
        raise RunError(Cause.LAUNCH, f"{what} ({error})") from error


def _from_environment(scheduler: str, job: Any, variables: Mapping[str, str], cpus_per_rank: int) -> RankInfo:
    job_id = str(job.job_id)
    return RankInfo(
        rank=job.global_rank,
        local_rank=job.local_rank,
        node_rank=job.node,
        nodes=job.num_nodes,
        world_size=job.num_tasks,
        hostnames=tuple(job.hostnames),
        attempt=variables.get("HPCPAR_ATTEMPT") or f"{job_id}.0",
        job_id=job_id,
        cpus_asked=int(variables.get("HPCPAR_CPUS_PER_RANK") or cpus_per_rank),
        scheduler=scheduler,
        checkpoint=_checkpointing(variables),
        hang_after_s=float(variables.get("HPCPAR_HANG_AFTER_S") or 0),
        node_name=variables.get("SLURMD_NODENAME") or socket.gethostname(),
        launch_address=variables.get("SLURM_LAUNCH_NODE_IPADDR", "") if scheduler == "slurm" else "",
    )


def _checkpointing(variables: Mapping[str, str]) -> Checkpointing | None:
    keep = int(variables.get("HPCPAR_CHECKPOINT_KEEP") or 0)
    every = int(variables.get("HPCPAR_CHECKPOINT_EVERY") or 0)
    return Checkpointing(every=every or None, keep=keep) if keep else None
