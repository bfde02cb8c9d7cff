"""Gradients of replicas in fewer bytes, through DDP's hooks. Lossy: each has a band of its own (tests/parallel)."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

from hpcpar.mesh_options import EngineOptions

UNTOUCHED_STEPS = 2
"""Steps that PowerSGD leaves alone: DDP orders its buckets anew after the first one, and torch asks for two."""


def apply(model: Any, group: Any, options: EngineOptions) -> None:
    """Give a DistributedDataParallel model its hook."""
    if options.compression == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            group, matrix_approximation_rank=options.powersgd_rank, start_powerSGD_iter=UNTOUCHED_STEPS
        )
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif options.compression != "none":
        dtype = torch.float16 if options.compression == "fp16" else torch.bfloat16
        model.register_comm_hook(group, _sent_as(dtype))


def _sent_as(dtype: torch.dtype) -> Any:
    # torch has these two hooks too, but refuses the one of bfloat16 where the backend is not NCCL. DDP reads the
    # annotations of a hook, and takes none that are text.
    def hook(group, bucket):  # type: ignore[no-untyped-def]
        buffer = bucket.buffer()
        small = buffer.to(dtype).div_(group.size())
        sent = distributed.all_reduce(small, group=group, async_op=True)
        return sent.get_future().then(lambda done: buffer.copy_(done.value()[0]))

    return hook
