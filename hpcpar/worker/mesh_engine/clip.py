"""Gradient clipping by the norm of the whole gradient, of which each rank may have a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import distributed, nn

from hpcpar.mesh import Mesh
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine.shard import is_expert, local, mesh_of
from hpcpar.worker.neural import NeuralWorkload


class Clipper:
    """Scales gradients so that their joint 2-norm is at most `limit`; the same factor on every rank."""

    def __init__(self, context: JobContext, workload: NeuralWorkload, model: nn.Module) -> None:
        self._limit, self._device = workload.max_grad_norm, context.device
        # The ranks of these axes have different parts. Those of the others have the same gradients as this one.
        axes = ["pp", "dp_shard", "tp", *(["dp_replicate"] if context.mesh.ep > 1 else [])]
        self._groups = [context.groups[axis] for axis in axes if axis in context.groups]
        self._shares = {name: _share(parameter, context.mesh) for name, parameter in model.named_parameters()}

    def __call__(self, parameters: Mapping[str, Any]) -> None:
        """Clip the gradients of all parameters, by name, in place, without waiting for the device.

        The formula is that of torch.nn.utils.clip_grad_norm_.
        """
        if not self._limit:
            return
        gradients = {name: local(parameter.grad) for name, parameter in parameters.items()}
        squares = [gradient.float().square().sum() * self._shares[name] for name, gradient in gradients.items()]
        # Offloaded gradients are on the host, those of layerwise on several devices.
        square = torch.stack([square.to(self._device) for square in squares]).sum()
        for group in self._groups:
            distributed.all_reduce(square, group=group)
        factor = (self._limit / (square.sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients.values():
            gradient.mul_(factor.to(gradient.device))


def _share(parameter: Any, mesh: Mesh) -> float:
    """Return how much of a part counts where several ranks that are added up have the same one."""
    share = 1.0 if _split_over_tp(parameter) else 1.0 / mesh.tp
    if mesh.ep == 1:
        return share
    return share * (mesh.ep / mesh.data_ranks if is_expert(parameter) else 1.0 / mesh.dp_replicate)


def _split_over_tp(parameter: Any) -> bool:
    mesh = mesh_of(parameter)
    if mesh is None:
        return False
    placements = dict(zip(mesh.mesh_dim_names, parameter.placements, strict=True))
    return "tp" in placements and placements["tp"].is_shard()
