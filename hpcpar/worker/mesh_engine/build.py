"""Build the trainer for a point of the mesh, in a fixed order.

The order is the one that all libraries agree on, and each later axis is one more step: pipeline cut (outermost), then
unit by unit tensor -> sequence -> experts -> precision -> activation checkpointing -> compile -> weights -> shard, then
for the whole stage shard -> replicate -> optimizer -> schedule.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from hpcpar import composition
from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import compiling, precision, replicate, shard, stages, tensor, weights
from hpcpar.worker.mesh_engine.balance import Balance
from hpcpar.worker.mesh_engine.clip import Clipper
from hpcpar.worker.mesh_engine.finite import Watch
from hpcpar.worker.mesh_engine.replica import ReplicaTrainer
from hpcpar.worker.mesh_engine.update import Update
from hpcpar.worker.neural import NeuralWorkload


def build(context: JobContext, workload: NeuralWorkload, options: EngineOptions) -> Trainer:
    """Make the trainer of this rank.

    Raises:
        ValueError: the composition rules refuse this mesh, these options or this batch.
        HpcparError: this device or installation has no fp8, or no tensor parallelism that overlaps.
    """
    composition.check(context.mesh, options, workload.declared, context.identity.grad_accum)
    precision.check(context.device, options)
    tensor.prepare(context, options)
    mine = stages.cut(workload.units, context, options)
    parts: list[Any] = [weights.materialise(stage.units, workload, context, options) for stage in mine]
    bare = parts[0] if context.mesh.pp == 1 else nn.ModuleList(parts)
    # Both before DDP, which hides how weights are split over tp.
    clipper, splits = Clipper(context, workload, bare), replicate.hidden_splits(bare, context)
    model = replicate.with_ddp(bare, context, options)
    watch, balance = Watch(context, workload), Balance(context, workload, parts)
    optimizer = _optimizer(workload, model)
    update = Update(context, bare, optimizer, clip=clipper, watch=watch, balance=balance, splits=splits)
    if context.mesh.pp == 1:
        trainer: Any = ReplicaTrainer(context, workload, model, update, options)
    else:
        from hpcpar.worker.mesh_engine.pipeline import PipelineTrainer  # 1.2 s: only for pipelines

        trainer = PipelineTrainer(context, workload, stages=mine, model=model, update=update, options=options)
    if options.compile:
        trainer.phases = compiling.phases
    return trainer


def _optimizer(workload: NeuralWorkload, model: Any) -> Any:
    # torch's foreach kernels take no mixture of plain and distributed tensors: one parameter group for each mesh.
    groups: dict[Any, list[Any]] = {}
    for parameter in weights.trained(model):
        groups.setdefault(shard.mesh_of(parameter), []).append(parameter)
    return workload.optimizer([{"params": parameters} for parameters in groups.values()])
