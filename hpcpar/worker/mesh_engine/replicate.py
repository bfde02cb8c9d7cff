"""Gradients of ranks that have the same weights: DDP without a pipeline, one flat all-reduce where DDP is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import distributed, nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import compression
from hpcpar.worker.mesh_engine.shard import Split, averages_over, is_expert, local, mesh_of, split_of
from hpcpar.worker.mesh_engine.weights import full_names


def with_ddp(model: nn.Module, context: JobContext, options: EngineOptions) -> nn.Module:
    """Wrap a whole model so that gradients are averaged over the replicas during the backward pass.

    A sharded model is left alone, as FSDP2 averages over its replicas itself; and so is a pipeline (`sums`).
    """
    group = context.groups.get("dp_replicate")
    if group is None or not _is_for_ddp(context):
        return model
    # With a mesh, DDP knows that weights may be split over tp; with a group it raises for them.
    where = {"device_mesh": context.device_mesh["dp_replicate"]} if context.mesh.tp > 1 else {"process_group": group}
    hidden = [name for name, parameter in model.named_parameters() if is_expert(parameter)]
    if hidden:
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, hidden)
    with warnings.catch_warnings():
        # torch 2.13 has another name for it, which torch 2.11 does not know, and warns.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        wrapped: nn.Module = nn.parallel.DistributedDataParallel(
            model,
            device_ids=[context.device.index] if context.device.type == "cuda" else None,
            **where,
            # None: torch's own sizes, a small bucket first, so that the first message leaves early.
            bucket_cap_mb=None if options.bucket_mb == EngineOptions().bucket_mb else options.bucket_mb,
            static_graph=options.static_graph,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,  # every rank comes to the same ones by itself
        )
    compression.apply(wrapped, group, options)
    return wrapped


def _is_for_ddp(context: JobContext) -> bool:
    return context.mesh.dp_replicate > 1 and context.mesh.dp_shard == context.mesh.pp == 1


def hidden_splits(model: nn.Module, context: JobContext) -> dict[str, Split]:
    """Say how weights are split that are plain slices: those of experts, and what DDP over tp will make of its own."""
    under_ddp = context.mesh.tp > 1 and _is_for_ddp(context)
    hidden = {n: p for n, p in full_names(model).items() if is_expert(p) or (under_ddp and mesh_of(p) is not None)}
    return {name: split for name, parameter in hidden.items() if (split := split_of(parameter)) is not None}


class Sum(NamedTuple):
    """Gradients that are added up over groups of ranks after the last backward pass, and then divided."""

    parameters: list[Any]
    groups: list[Any]
    divided_by: int = 1


def sums(context: JobContext, parameters: Iterable[Any]) -> list[Sum]:
    """Say what neither DDP nor FSDP2 add up.

    Replicas under a pipeline, where DDP is wrong without a word: it reduces after the first micro-batch (torch 2.13).
    The ranks of cp: each has the gradients of its tokens. Experts: DDP and FSDP2 do not know of ep, and are not told of
    them; their gradients must be divided as those of everything else are.
    """
    mesh, mine = context.mesh, list(parameters)
    dense = [parameter for parameter in mine if not is_expert(parameter)]
    spread = [parameter for parameter in mine if is_expert(parameter)]
    axes = ["dp_replicate"] if mesh.pp > 1 and mesh.dp_shard == 1 else []
    found = [
        Sum(dense, [context.groups[axis] for axis in (*axes, "cp") if axis in context.groups]),
        Sum(
            spread,
            [context.groups[axis] for axis in ("experts", "cp") if axis in context.groups],
            averages_over(context),
        ),
    ]
    return [one for one in found if one.parameters and (one.groups or one.divided_by > 1)]


def sum_gradients(one: Sum) -> None:
    """Add gradients up over groups, in one message each, and divide them."""
    gradients = [local(parameter.grad) for parameter in one.parameters]
    if not one.groups:  # in place: a flat copy would only cost memory
        torch._foreach_div_(gradients, one.divided_by)
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    for group in one.groups:
        distributed.all_reduce(flat, group=group)
    if one.divided_by > 1:
        flat /= one.divided_by
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
