"""Several axes at once: by default a pipeline of two stages, replicated over the rest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from hpcpar.registry import Trainer, World
from hpcpar.spec import Mesh, parse_mesh


class HybridOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The mesh and what its axes need."""

    mesh: str = "pp=2,dp=-1"
    """Sizes of the axes, -1 fills; `dp` means dp_replicate."""
    schedule: Literal["1f1b", "gpipe"] = "1f1b"
    """How micro-batches flow through the stages."""
    bucket_mb: Annotated[float, Meta(gt=0)] = 25.0
    """Size of a gradient bucket in MiB, where no pipeline is on the mesh."""


class Hybrid:
    """The mesh that the options name."""

    name = "hybrid"
    summary = "a mesh of several axes: pipeline stages x replicas"
    kinds = frozenset({"neural"})
    extras = ("torch",)
    Options = HybridOptions

    def layout(self, world: World, options: HybridOptions) -> Mesh:
        """Fill the mesh; one rank is one stage, whatever the default says."""
        if world.size == 1 and options.mesh == HybridOptions().mesh:
            return Mesh()
        mesh = parse_mesh(options.mesh, world.size)
        missing = [axis for axis in ("dp_shard", "cp", "tp", "ep") if getattr(mesh, axis) > 1]
        if missing:
            raise ValueError(f"mesh '{options.mesh}': {', '.join(missing)} is not supported yet: use pp and dp")
        return mesh

    def build(self, context: Any, workload: Any, options: HybridOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.mesh_engine.build import EngineOptions, build

        engine = EngineOptions(schedule=options.schedule, bucket_mb=options.bucket_mb)
        return build(context, workload, engine)


STRATEGY = Hybrid()
