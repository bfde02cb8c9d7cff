"""Give a stage its initial weights: a function of (seed, parameter name) alone, so that every cut starts the same."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import compiling, experts, precision, recompute, ring, shard, tensor
from hpcpar.worker.neural import NeuralWorkload, Unit


class Part(nn.Sequential):
    """Consecutive units of a model. The names of parameters inside it do not depend on where the model was cut."""


def materialise(
    units: Sequence[Unit], workload: NeuralWorkload, context: JobContext, options: EngineOptions
) -> nn.Module:
    """Build the units without memory, then give one after the other its weights (and buffers) and shard it."""
    with torch.device("meta"):
        model = Part(OrderedDict((unit.name, unit.build()) for unit in units))
    for unit, module in zip(units, model.children(), strict=True):
        tensor.apply(module, unit, context, options)
        ring.apply(module, unit, context)
        experts.apply(module, unit, context, workload.declared, options)
        precision.apply(module, unit, context.device, options)
        recompute.apply(module, options)
        compiling.apply(module, unit, options)
        module.to_empty(device=shard.home(context, options))
        experts.mark(module, unit, context)
        _fill(module, unit.name, workload)
        shard.apply(module, context, options)
    shard.apply(model, context, options)
    return model


def _fill(module: nn.Module, unit_name: str, workload: NeuralWorkload) -> None:
    for its_name, parameter in (*module.named_parameters(), *module.named_buffers()):
        name, mine = f"{unit_name}.{its_name}", shard.local(parameter.detach())
        whole = shard.whole(parameter)
        in_place = mine.shape == whole.shape and mine.device.type == "cpu"  # random numbers are the CPU's everywhere
        values = mine if in_place else torch.empty(whole.shape, dtype=parameter.dtype)
        workload.initialise(name, values, generator(workload.seed, name))
        if not in_place:
            mine.copy_(shard.like(values, parameter))


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def full_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that this rank has a part of, by UNIT.PARAMETER: whatever the mesh, the same name."""
    parts = [module for module in model.modules() if isinstance(module, Part)]
    return {name: parameter for part in parts for name, parameter in part.named_parameters()}


def full_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers of this rank's parts in the same way."""
    parts = [module for module in model.modules() if isinstance(module, Part)]
    return {name: buffer for part in parts for name, buffer in part.named_buffers()}


def generator(seed: int, name: str) -> torch.Generator:
    """Return a CPU generator of random numbers for one parameter: the same numbers on every machine and device."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
