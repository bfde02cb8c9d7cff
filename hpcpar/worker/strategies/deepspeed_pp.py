"""DeepSpeed's pipeline: the model's units cut into stages, micro-batches flow through them (1F1B)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import DeepspeedOptions, engine_options
from hpcpar.registry import Trainer, World


class DeepspeedPpOptions(DeepspeedOptions, frozen=True, kw_only=True):
    """How deep the pipeline is; its micro-batches are the steps of accumulation."""

    stages: Annotated[int, Meta(ge=1)] | None = None
    """Stages of the pipeline; the other ranks replicate them. Not given: a stage on every rank."""


class DeepspeedPp:
    """pp takes all ranks, or `stages` of them and dp_replicate the rest."""

    name = "deepspeed-pp"
    summary = "DeepSpeed PipelineModule: a stage of the model on every rank, micro-batches flow through"
    kinds = frozenset({"neural"})
    extras = ("torch", "deepspeed")
    no_checkpoints = "DeepSpeed keeps the shards of the optimizer to itself"
    Options = DeepspeedPpOptions

    def layout(self, world: World, options: DeepspeedPpOptions) -> Mesh:
        """Make a stage of every rank, or replicate pipelines of `stages`."""
        stages = options.stages or world.size
        if world.size % stages:
            raise ValueError(f"a pipeline of {stages} stages does not divide {world.size} ranks")
        return Mesh(pp=stages, dp_replicate=world.size // stages)

    def build(self, context: Any, workload: Any, options: DeepspeedPpOptions) -> Trainer:
        """Build the trainer (job)."""
        from hpcpar.worker.deepspeed_engine.pipeline import build

        return build(context, workload, engine_options(options))


STRATEGY = DeepspeedPp()
