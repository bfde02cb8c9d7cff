"""Build the trainer for a point of the mesh, in a fixed order.

The order is the one that all libraries agree on, and each later axis is one more line in `build`: pipeline cut
(outermost) -> [tensor -> activation checkpointing -> compile] -> weights -> [shard] -> replicate -> optimizer ->
schedule. What stands in brackets is not built yet.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from hpcpar.registry import Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import replicate, stages, weights
from hpcpar.worker.mesh_engine.replica import ReplicaTrainer
from hpcpar.worker.neural import NeuralWorkload


class EngineOptions(Struct, frozen=True, kw_only=True):
    """What strategies may choose beyond the mesh."""

    bucket_mb: float = 25.0
    """Gradients are sent in buckets of this many MiB while the backward pass still runs (torch's default)."""
    static_graph: bool = False
    schedule: Literal["gpipe", "1f1b"] = "1f1b"


def build(context: JobContext, workload: NeuralWorkload, options: EngineOptions) -> Trainer:
    """Make the trainer of this rank.

    Raises:
        ValueError: the mesh has an axis that is not built yet, or more stages than the model has units or the batch
            has micro-batches.
    """
    _refuse_unknown_axes(context)
    cut = stages.cut(workload.units, context.mesh.pp, context.place["pp"])
    model: Any = weights.materialise(cut.units, workload, context.device)
    parameters = list(model.parameters())
    if context.mesh.pp == 1:
        model = replicate.with_ddp(model, context, options.bucket_mb, options.static_graph)
        return ReplicaTrainer(context, workload, model, workload.optimizer(parameters))
    from hpcpar.worker.mesh_engine.pipeline import PipelineTrainer  # 1.2 s: only for pipelines

    return PipelineTrainer(context, workload, model, workload.optimizer(parameters), options.schedule)


def _refuse_unknown_axes(context: JobContext) -> None:
    mesh = context.mesh
    sizes = {axis: getattr(mesh, axis) for axis in ("dp_shard", "cp", "tp", "ep")}
    missing = [f"{axis}={size}" for axis, size in sizes.items() if size > 1]
    if missing:
        raise ValueError(f"mesh {mesh.label()}: {', '.join(missing)} is not supported yet: use pp and dp")
