"""Gradients of ranks that have the same weights: DDP without a pipeline, one flat all-reduce where DDP is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed, nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import compression
from hpcpar.worker.mesh_engine.shard import local


def with_ddp(model: nn.Module, context: JobContext, options: EngineOptions) -> nn.Module:
    """Wrap a whole model so that gradients are averaged over the replicas during the backward pass.

    A sharded model is left alone, as FSDP2 averages over its replicas itself; and so is a pipeline (`groups_to_sum`).
    """
    group = context.groups.get("dp_replicate")
    if group is None or context.mesh.dp_shard > 1 or context.mesh.pp > 1:
        return model
    # With a mesh, DDP knows that weights may be split over tp; with a group it raises for them.
    where = {"device_mesh": context.device_mesh["dp_replicate"]} if context.mesh.tp > 1 else {"process_group": group}
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(
        model,
        device_ids=[context.device.index] if context.device.type == "cuda" else None,
        **where,
        bucket_cap_mb=options.bucket_mb,
        static_graph=options.static_graph,
        gradient_as_bucket_view=True,
    )
    compression.apply(wrapped, group, options)
    return wrapped


def groups_to_sum(context: JobContext) -> list[Any]:
    """Return the groups over which gradients are added up after the last backward pass.

    Replicas under a pipeline, where DDP is wrong without a word: it reduces after the first micro-batch (torch 2.13).
    And the ranks of cp: each has the gradients of its tokens.
    """
    mesh = context.mesh
    axes = ["dp_replicate"] if mesh.pp > 1 and mesh.dp_shard == 1 else []
    return [context.groups[axis] for axis in (*axes, "cp") if axis in context.groups]


def sum_gradients(parameters: Iterable[Any], group: Any) -> None:
    """Add the gradients up over a group, in one message."""
    gradients = [local(parameter.grad) for parameter in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat, group=group)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
