"""DeepSpeed in this process: on the process groups that are there, without its launcher and without a compiler."""

from __future__ import annotations

import os
import warnings
from typing import Any

from msgspec.structs import replace
from torch import distributed, nn

from hpcpar import composition
from hpcpar.errors import MissingExtraError
from hpcpar.mesh import Mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.worker.context import JobContext
from hpcpar.worker.neural import NeuralWorkload


def load(context: JobContext, workload: NeuralWorkload) -> Any:
    """Import DeepSpeed, have it use the process groups of this job, and return the package.

    Raises:
        ValueError: the composition rules refuse this mesh or this batch.
        MissingExtraError: it is not installed.
    """
    composition.check(context.mesh, EngineOptions(), workload.declared, context.identity.grad_accum)
    _announce(context)
    try:
        import deepspeed
    except ModuleNotFoundError as error:
        if error.name != "deepspeed":
            raise
        needed_by = f"strategy {context.identity.strategy}"
        raise MissingExtraError("deepspeed", "deepspeed", needed_by) from error
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 deprecates, in several lines a step.
    warnings.filterwarnings("ignore", "`torch.distributed.*` is deprecated", FutureWarning)
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


def _leave_shared_memory_alone(deepspeed: Any) -> None:
    """Keep DeepSpeed 0.19 from its own all-reduce on CPUs.

    It would compile that in every fresh installation (25 s, needs g++ and ninja) and use it only where LOCAL_SIZE is
    set, to leave 66 MiB a rank in /dev/shm after every job, for ever.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def settings(context: JobContext, workload: NeuralWorkload, zero: dict[str, Any]) -> dict[str, Any]:
    """Return DeepSpeed's configuration for this run; `zero` is its `zero_optimization`.

    The optimizer is the workload's own: DeepSpeed's are compiled, and round in ways of their own.
    """
    return {
        "train_micro_batch_size_per_gpu": context.identity.micro_batch,
        "gradient_accumulation_steps": context.identity.grad_accum,
        "gradient_clipping": workload.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }


def initialize(deepspeed: Any, model: nn.Module, workload: NeuralWorkload, config: dict[str, Any]) -> Any:
    """Return DeepSpeed's engine around a model that has its weights."""
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), optimizer=workload.optimizer, config=config
    )
    return engine


def alone(context: JobContext) -> JobContext:
    """Return the context as one process would see it: it is DeepSpeed that splits and shards."""
    return replace(context, identity=replace(context.identity, mesh=Mesh()), groups={}, device_mesh=None)
