"""DeepSpeed in this process: on the process groups that are there, without its launcher and without a compiler."""

from __future__ import annotations

import os
import warnings
from typing import Any

from torch import distributed

from hpcpar.errors import MissingExtraError
from hpcpar.spec import Mesh
from hpcpar.worker.context import JobContext


def load(context: JobContext) -> Any:
    """Import DeepSpeed for this rank and return the package.

    Raises:
        MissingExtraError: it is not installed.
    """
    _announce(context)
    try:
        import deepspeed
    except ModuleNotFoundError as error:
        if error.name != "deepspeed":
            raise
        needed_by = f"strategy {context.identity.strategy}"
        raise MissingExtraError("deepspeed", "deepspeed", needed_by) from error
    _quieten()
    _leave_shared_memory_alone(deepspeed)
    if not distributed.is_initialized():  # one rank: DeepSpeed wants a group all the same
        backend = "nccl" if context.device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed()
    return deepspeed


def _announce(context: JobContext) -> None:
    """Say what DeepSpeed asks the environment for, as its launcher would.

    LOCAL_RANK is to DeepSpeed the index of the device; the device is chosen already, so this one must be it.
    """
    index = context.device.index
    os.environ["LOCAL_RANK"] = str(context.info.local_rank if index is None else index)
    os.environ["DS_ACCELERATOR"] = context.device.type


def _quieten() -> None:
    """Keep torch 2.13 from deprecating the collectives of DeepSpeed 0.19 in several lines a step."""
    warnings.filterwarnings("ignore", "`torch.distributed.*` is deprecated", FutureWarning)


def _leave_shared_memory_alone(deepspeed: Any) -> None:
    """Keep DeepSpeed 0.19 from its own all-reduce on CPUs, before its first collective.

    It compiles that at the start of every fresh installation (25 s, needs g++ and ninja), uses it only where LOCAL_SIZE
    is set, and then leaves 66 MiB a rank in /dev/shm after every job, for ever.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def settings(context: JobContext, max_grad_norm: float, zero: dict[str, Any]) -> dict[str, Any]:
    """Return DeepSpeed's configuration for this run.

    The optimizer is the workload's own: DeepSpeed's are compiled, and round in their own ways.
    """
    identity = context.identity
    return {
        "train_micro_batch_size_per_gpu": identity.micro_batch,
        "gradient_accumulation_steps": identity.grad_accum,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def alone(context: JobContext) -> JobContext:
    """Return the context as one process sees it: DeepSpeed splits models itself."""
    from msgspec.structs import replace

    identity = replace(context.identity, mesh=Mesh())
    return replace(context, identity=identity, groups={}, device_mesh=None)
