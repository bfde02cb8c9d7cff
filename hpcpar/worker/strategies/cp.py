"""Context parallel training: every rank has a slice of the sequence (ring attention)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import UnitOptions
from hpcpar.registry import World
from hpcpar.worker.strategies.mesh import MeshStrategy


class CpOptions(UnitOptions, frozen=True, kw_only=True):
    """How far sequences are cut."""

    degree: Annotated[int, Meta(ge=1)] | None = None
    """Ranks that share a sequence; the other ranks replicate. Not given: all ranks."""


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
