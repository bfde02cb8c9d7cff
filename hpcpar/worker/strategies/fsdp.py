"""Fully sharded data parallel training (torch FSDP2), sharded over all ranks or within groups that are replicated."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import UnitOptions
from hpcpar.registry import World
from hpcpar.worker.strategies.mesh import MeshStrategy


class FsdpOptions(UnitOptions, frozen=True, kw_only=True):
    """How far and how the model is sharded."""

    shard_size: Annotated[int, Meta(ge=1)] | None = None
    """Ranks that share one copy of the model; the other ranks replicate it (hybrid sharding). Not given: all ranks."""
    reshard_after_forward: bool | None = None
    """True (as when not given) gives the weights of a unit back after its forward pass and gathers them again for the
    backward pass; False keeps them in between (as ZeRO-2 does)."""
    cpu_offload: bool = False
    """Keep shards and optimizer state in the memory of the host."""


class Fsdp(MeshStrategy):
    """dp_shard takes all ranks, or `shard_size` of them and dp_replicate the rest."""

    name = "fsdp"
    summary = "weights, gradients and optimizer state sharded over the ranks"
    Options = FsdpOptions

    def layout(self, world: World, options: FsdpOptions) -> Mesh:
        """Shard over all ranks, or over groups of `shard_size`."""
        size = options.shard_size or world.size
        if world.size % size:
            raise ValueError(f"shard_size {size} does not divide {world.size} ranks")
        return Mesh(dp_replicate=world.size // size, dp_shard=size)


STRATEGY = Fsdp()
