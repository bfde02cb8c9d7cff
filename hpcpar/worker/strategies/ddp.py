"""Data parallel training: the model on every rank, gradients averaged (torch DistributedDataParallel)."""

from __future__ import annotations

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import CompressionName, Megabytes, Rank, UnitOptions
from hpcpar.registry import World
from hpcpar.worker.strategies.mesh import MeshStrategy


class DdpOptions(UnitOptions, frozen=True, kw_only=True):
    """How gradients are sent."""

    bucket_mb: Megabytes = 25.0
    """Gradients travel in buckets of this many MiB, while the backward pass still runs (torch's default)."""
    static_graph: bool = False
    """True promises that every step uses the same parameters: DDP may then plan ahead. With accumulation it sends the
    gradients of every micro-batch, as torch's static graph does not get on with leaving some out."""
    compression: CompressionName = "none"
    """How gradients travel: "fp16" and "bf16" as numbers of half the size, "powersgd" as two thin matrices for each
    large one, from the third step on (Vogels et al. 2019, arXiv:1905.13727). Each changes what is learnt."""
    powersgd_rank: Rank = 1
    """Columns of those thin matrices."""


class Ddp(MeshStrategy):
    """dp_replicate takes all ranks."""

    name = "ddp"
    summary = "a replica of the model on every rank, gradients averaged"
    Options = DdpOptions

    def layout(self, world: World, options: DdpOptions) -> Mesh:
        """Replicate over all ranks."""
        return Mesh(dp_replicate=world.size)


STRATEGY = Ddp()
