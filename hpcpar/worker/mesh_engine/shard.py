"""Sharding of weights, gradients and optimizer state over dp_shard (torch FSDP2), replicated over dp_replicate."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from hpcpar import composition
from hpcpar.mesh_options import EngineOptions
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import precision


def home(context: JobContext, options: EngineOptions) -> torch.device:
    """Return where the weights live between two uses."""
    offloaded = options.cpu_offload and context.mesh.dp_shard > 1
    return torch.device("cpu") if offloaded else context.device


def apply(module: nn.Module, context: JobContext, options: EngineOptions) -> None:
    """Shard what is not yet sharded in a module, in place; its weights are on `home` already.

    Each unit is sharded as soon as it has its weights, so that no rank ever holds more than one whole unit.
    """
    if context.mesh.dp_shard == 1:
        return
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard  # 0.3 s: only where something is sharded

    axes = ("dp_replicate", "dp_shard") if context.mesh.dp_replicate > 1 else ("dp_shard",)
    more = precision.policy(options)
    if options.cpu_offload:
        # Pinning needs an accelerator; torch raises without one.
        more["offload_policy"] = CPUOffloadPolicy(pin_memory=context.device.type != "cpu")
    fully_shard(
        module,
        mesh=context.device_mesh[axes],
        reshard_after_forward=composition.reshards(context.mesh, options),
        ignored_params={p for p in module.parameters() if is_expert(p)},  # other ranks of this mesh have other experts
        **more,
    )


def averages_over(context: JobContext) -> int:
    """Return how many ranks DDP or FSDP2 average gradients over; 1 under a pipeline of replicas, which adds them up."""
    return context.mesh.data_ranks if context.mesh.dp_shard > 1 or context.mesh.pp == 1 else 1


def mesh_of(tensor: Any) -> Any:
    """Return the DeviceMesh of a distributed tensor, None of a plain one."""
    return getattr(tensor, "device_mesh", None)


class Split(NamedTuple):
    """How a tensor is spread over ranks."""

    mesh: Any
    placements: tuple[Any, ...]


def mark_slice(parameter: Any, mesh: Any, placements: tuple[Any, ...]) -> None:
    """Have a plain tensor say what it is a slice of."""
    parameter.slice_of = Split(mesh, placements)


def split_of(parameter: Any) -> Split | None:
    """Return how a parameter is spread, whether it is a distributed tensor or a slice; None of a whole one."""
    mesh = mesh_of(parameter)
    return getattr(parameter, "slice_of", None) if mesh is None else Split(mesh, parameter.placements)


def is_expert(parameter: Any) -> bool:
    """Say whether every rank of ep has another part of this parameter."""
    split = getattr(parameter, "slice_of", None)
    return split is not None and split.mesh.mesh_dim_names == ("ep",)


def like(values: torch.Tensor, parameter: Any) -> torch.Tensor:
    """Return what of a whole tensor this rank has of a parameter. Every rank has the whole one, so nothing is sent."""
    split = split_of(parameter)
    if split is None:
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, split.mesh, split.placements, src_data_rank=None).to_local()


def whole(parameter: Any) -> Any:
    """Return a parameter as what it is part of: a distributed tensor, a slice too. It shares the memory."""
    split = split_of(parameter)
    if split is None or mesh_of(parameter) is not None:
        return parameter
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(parameter.detach(), split.mesh, split.placements, run_check=False)


def local(tensor: Any) -> Any:
    """Return this rank's part of a tensor, which shares its memory."""
    return tensor.to_local() if mesh_of(tensor) is not None else tensor
