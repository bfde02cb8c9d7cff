"""Tensor parallelism over tp (torch DTensor), from the plan that a workload's units carry as data.

Between two units, activations are plain tensors: whole ones, or with sequence parallelism this rank's slice of the
sequence. So a pipeline may cut between any two units, and sends slices to the same tp rank of the next stage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from torch import nn

from hpcpar.errors import RunError
from hpcpar.mesh_options import EngineOptions
from hpcpar.records import Cause
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import precision, shard
from hpcpar.worker.neural import Loss, TensorStyle, Unit


def apply(module: nn.Module, unit: Unit, context: JobContext, options: EngineOptions) -> None:
    """Spread a unit, in place. Its weights may be on the meta device: nothing is sent."""
    if context.mesh.tp == 1:
        return
    from torch.distributed.tensor.parallel import parallelize_module  # 0.3 s: only where it is used

    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    for path, style in unit.tensor.items():
        how = _style(style, options)
        if how is not None:
            target = module.get_submodule(path)
            parallelize_module(target, context.device_mesh["tp"], how, src_data_rank=None)
    for name in frozen:  # torch 2.13 makes some of them trainable again
        module.get_parameter(name).requires_grad_(requires_grad=False)


def prepare(context: JobContext, options: EngineOptions) -> None:
    """Have the compiler overlap what travels with what is multiplied, where that was chosen.

    Raises:
        RunError: these ranks do not see each other's memory.
    """
    if not options.async_tp or context.mesh.tp == 1:
        return
    if context.device.type != "cuda":
        what = f"async_tp needs GPUs that see each other's memory, this rank is on {context.device.type}: leave it out"
        raise RunError(Cause.LAUNCH, what)
    import torch._inductor.config as compiler
    from torch.distributed._symmetric_memory import enable_symm_mem_for_group

    compiler._micro_pipeline_tp = True
    enable_symm_mem_for_group(context.groups["tp"].group_name)


def _style(style: TensorStyle, options: EngineOptions) -> Any:
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
    )

    between = Shard(1) if options.sequence_parallel else Replicate()
    if style == "column":
        return ColwiseParallel()
    if style == "replica":
        return _replicas()
    if style == "row":
        return RowwiseParallel(output_layouts=between)
    if style == "vocabulary":
        return RowwiseParallel(input_layouts=Replicate(), output_layouts=between)
    if style == "logits":
        return ColwiseParallel(
            input_layouts=between, output_layouts=Shard(-1) if options.loss_parallel else Replicate()
        )
    if style == "norm":
        return SequenceParallel() if options.sequence_parallel else None
    # "gather" hands a DTensor on, so that the gradients of several columns are summed before they are sent, and once.
    return PrepareModuleInput(input_layouts=between, desired_input_layouts=Replicate(), use_local_output=False)


def _replicas() -> Any:
    """Return the style of a linear layer that is whole on every rank, and takes and returns distributed tensors.

    As its weights are distributed ones, the gradients that the columns behind it send back are added up.
    """
    from torch.distributed.tensor import DTensor, Replicate
    from torch.distributed.tensor.parallel.style import ParallelStyle

    class Replicas(ParallelStyle):
        def _apply(self, module: nn.Module, device_mesh: Any) -> nn.Module:
            for name, parameter in list(module.named_parameters(recurse=False)):
                whole = DTensor.from_local(parameter.detach(), device_mesh, [Replicate()], run_check=False)
                module.register_parameter(name, nn.Parameter(whole, requires_grad=parameter.requires_grad))
            return module

    return Replicas()


def loss(function: Loss, context: JobContext, options: EngineOptions) -> Loss:
    """Let a workload's loss read fp32, and logits of which every rank has some classes, where the options say so."""
    function = precision.loss(function, options)
    if context.mesh.tp == 1 or not options.loss_parallel:
        return function
    from torch.distributed.tensor import DTensor, Shard

    mesh = context.device_mesh["tp"]

    def of_slices(output: Any, targets: Any) -> tuple[Any, float]:
        whole = DTensor.from_local(output, mesh, (Shard(-1),), run_check=False)
        summed, weight = function(whole, targets)
        return summed.full_tensor(), weight

    return of_slices


def loss_region(context: JobContext, options: EngineOptions) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which such a loss is computed, forward and backward."""
    if context.mesh.tp == 1 or not options.loss_parallel:
        return contextlib.nullcontext()
    from torch.distributed.tensor.parallel import loss_parallel

    return loss_parallel()


def settle_gradients(parameters: Iterable[Any]) -> None:
    """Bring every gradient to the layout of its parameter.

    The gradient of a norm that saw a slice of the sequence is a sum that is still to be made (DTensor's Partial): what
    looks at gradients before the optimizer (a sum over replicas, a norm) must not depend on when torch makes it.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if shard.mesh_of(gradient) is not None and gradient.placements != parameter.placements:
            parameter.grad = gradient.redistribute(placements=parameter.placements)
