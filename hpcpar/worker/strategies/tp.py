"""Tensor parallel training: every layer split over the ranks (torch DTensor), as the workload's plan says."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import UnitOptions
from hpcpar.registry import World
from hpcpar.worker.strategies.mesh import MeshStrategy


class TpOptions(UnitOptions, frozen=True, kw_only=True):
    """How far and how layers are split."""

    degree: Annotated[int, Meta(ge=1)] | None = None
    """Ranks that share a layer; the other ranks replicate. Not given: all ranks."""
    sequence_parallel: bool = False
    """Between the matrices of a block, every rank keeps its slice of the sequence only."""
    loss_parallel: bool = False
    """Leave the logits spread over the ranks: nobody holds all classes of a token."""
    async_tp: bool = False
    """With sequence_parallel and compile, on GPUs that see each other's memory: what travels between the ranks is cut
    into pieces, and travels while they are multiplied."""


class Tp(MeshStrategy):
    """tp takes all ranks, or `degree` of them and dp_replicate the rest."""

    name = "tp"
    summary = "every layer split over the ranks"
    Options = TpOptions

    def layout(self, world: World, options: TpOptions) -> Mesh:
        """Split over all ranks, or over groups of `degree`."""
        degree = options.degree or world.size
        if world.size % degree:
            raise ValueError(f"degree {degree} does not divide {world.size} ranks")
        return Mesh(dp_replicate=world.size // degree, tp=degree)


STRATEGY = Tp()
