"""Data parallel training: the model on every rank, gradients averaged (torch DistributedDataParallel)."""

from __future__ import annotations

from msgspec import Struct

from hpcpar.mesh_options import CheckpointingName, Megabytes
from hpcpar.registry import World
from hpcpar.spec import Mesh
from hpcpar.worker.strategies.mesh import MeshStrategy


class DdpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How gradients are sent."""

    bucket_mb: Megabytes = 25.0
    """Gradients travel in buckets of this many MiB, while the backward pass still runs (torch's default)."""
    static_graph: bool = False
    """True promises that every step uses the same parameters: DDP may then plan ahead. With accumulation it sends the
    gradients of every micro-batch, as torch's static graph does not get on with leaving some out."""
    activation_checkpointing: CheckpointingName = "none"
    """"full" keeps only what goes from unit to unit, and computes the rest of a unit again in its backward pass."""


class Ddp(MeshStrategy):
    """dp_replicate takes all ranks."""

    name = "ddp"
    summary = "a replica of the model on every rank, gradients averaged"
    Options = DdpOptions

    def layout(self, world: World, options: DdpOptions) -> Mesh:
        """Replicate over all ranks."""
        return Mesh(dp_replicate=world.size)


STRATEGY = Ddp()
