"""DeepSpeed's AutoTP: layers split over the ranks, as the workload's plan says."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import DeepspeedOptions, engine_options
from hpcpar.registry import Trainer, World


class DeepspeedTpOptions(DeepspeedOptions, frozen=True, kw_only=True):
    """How far layers are split."""

    degree: Annotated[int, Meta(ge=1)] | None = None
    """Ranks that share a layer; the other ranks replicate. Not given: all ranks."""


class DeepspeedTp:
    """tp takes all ranks, or `degree` of them and dp_replicate the rest."""

    name = "deepspeed-tp"
    summary = "DeepSpeed AutoTP: layers split over the ranks"
    kinds = frozenset({"neural"})
    extras = ("torch", "deepspeed")
    no_checkpoints = "DeepSpeed keeps the slices of weights and optimizer to itself"
    Options = DeepspeedTpOptions

    def layout(self, world: World, options: DeepspeedTpOptions) -> Mesh:
        """Split over all ranks, or over groups of `degree`."""
        degree = options.degree or world.size
        if world.size % degree:
            raise ValueError(f"degree {degree} does not divide {world.size} ranks")
        return Mesh(dp_replicate=world.size // degree, tp=degree)

    def build(self, context: Any, workload: Any, options: DeepspeedTpOptions) -> Trainer:
        """Build the trainer (job)."""
        from hpcpar.worker.deepspeed_engine.autotp import build

        return build(context, workload, engine_options(options))


STRATEGY = DeepspeedTp()
