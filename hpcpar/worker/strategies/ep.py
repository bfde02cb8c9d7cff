"""Expert parallel training: the experts of a mixture spread over ranks, tokens travel to them (all-to-all)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import CheckpointingName, Megabytes
from hpcpar.registry import World
from hpcpar.worker.strategies.mesh import MeshStrategy


class EpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far experts are spread, and how many tokens they take."""

    degree: Annotated[int, Meta(ge=1)] | None = None
    """Ranks that share a set of experts; the other ranks hold the same experts again. Not given: all ranks."""
    capacity: Annotated[float, Meta(ge=0)] = 0.0
    """Of a mixture of experts: how many tokens of a sample an expert takes, as a multiple of what it gets when all are
    equally busy. What is more is dropped, and goes on beside the experts. 0: every token gets where it was sent."""
    bucket_mb: Megabytes = 25.0
    """Gradients of what is not an expert travel in buckets of this many MiB, while the backward pass still runs."""
    activation_checkpointing: CheckpointingName = "none"
    """"full" keeps only what goes from unit to unit, and computes the rest of a unit again in its backward pass."""


class Ep(MeshStrategy):
    """dp_replicate takes all ranks; ep is carved out of it."""

    name = "ep"
    summary = "experts of a mixture spread over the ranks, tokens travel to them"
    kinds = frozenset({"mixture-of-experts"})
    Options = EpOptions

    def layout(self, world: World, options: EpOptions) -> Mesh:
        """Spread over all ranks, or over groups of `degree`."""
        degree = options.degree or world.size
        if world.size % degree:
            raise ValueError(f"degree {degree} does not divide {world.size} ranks")
        return Mesh(dp_replicate=world.size, ep=degree)


STRATEGY = Ep()
