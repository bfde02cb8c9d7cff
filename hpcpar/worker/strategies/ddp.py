"""Data parallel training: the model on every rank, gradients averaged (torch DistributedDataParallel)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from hpcpar.registry import Trainer, World
from hpcpar.spec import Mesh


class DdpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How gradients are sent."""

    bucket_mb: Annotated[float, Meta(gt=0)] = 25.0
    """Gradients travel in buckets of this many MiB, while the backward pass still runs."""
    static_graph: bool = False
    """True promises that every step uses the same parameters: DDP may then plan ahead. With accumulation it sends the
    gradients of every micro-batch, as torch's static graph does not get on with leaving some out."""


class Ddp:
    """dp_replicate takes all ranks."""

    name = "ddp"
    summary = "a replica of the model on every rank, gradients averaged"
    kinds = frozenset({"neural"})
    extras = ("torch",)
    Options = DdpOptions

    def layout(self, world: World, options: DdpOptions) -> Mesh:
        """Replicate over all ranks."""
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: DdpOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.mesh_engine.build import EngineOptions, build

        engine = EngineOptions(bucket_mb=options.bucket_mb, static_graph=options.static_graph)
        return build(context, workload, engine)


STRATEGY = Ddp()
