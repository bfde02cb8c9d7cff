"""Data replication, in the two ways that are right: DDP without a pipeline, one flat all-reduce under one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed, nn

from hpcpar.worker.context import JobContext


def with_ddp(model: nn.Module, context: JobContext, bucket_mb: float, static_graph: bool) -> nn.Module:
    """Wrap a whole model so that gradients are averaged over the replicas during the backward pass."""
    group = context.groups.get("dp_replicate")
    if group is None:
        return model
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(
        model,
        device_ids=[context.device.index] if context.device.type == "cuda" else None,
        process_group=group,
        bucket_cap_mb=bucket_mb,
        static_graph=static_graph,
        gradient_as_bucket_view=True,
    )
    return wrapped


def sum_gradients(parameters: Iterable[Any], group: Any) -> None:
    """Add the gradients up over the replicas, in one message.

    Under a pipeline DDP is wrong without a word: it reduces after the first micro-batch (seen with torch 2.13).
    """
    gradients = [parameter.grad for parameter in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat, group=group)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
