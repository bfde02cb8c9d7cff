"""Context parallel training: every rank has a slice of the sequence (ring attention)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from hpcpar.mesh_options import CheckpointingName
from hpcpar.registry import World
from hpcpar.spec import Mesh
from hpcpar.worker.strategies.mesh import MeshStrategy


class CpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far sequences are cut."""

    degree: Annotated[int, Meta(ge=1)] | None = None
    """Ranks that share a sequence; the other ranks replicate. Not given: all ranks."""
    activation_checkpointing: CheckpointingName = "none"
    """"full" keeps only what goes from unit to unit, and computes the rest of a unit again in its backward pass."""


class Cp(MeshStrategy):
    """cp takes all ranks, or `degree` of them and dp_replicate the rest."""

    name = "cp"
    summary = "every sequence cut over the ranks, keys and values go round"
    Options = CpOptions

    def layout(self, world: World, options: CpOptions) -> Mesh:
        """Cut over all ranks, or over groups of `degree`."""
        degree = options.degree or world.size
        if world.size % degree:
            raise ValueError(f"degree {degree} does not divide {world.size} ranks")
        return Mesh(dp_replicate=world.size // degree, cp=degree)


STRATEGY = Cp()
