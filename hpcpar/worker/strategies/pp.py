"""Pipeline parallel training: the model's units cut into stages, micro-batches flow through them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import UnitOptions
from hpcpar.registry import World
from hpcpar.schedules import ScheduleName
from hpcpar.worker.strategies.mesh import MeshStrategy


class PpOptions(UnitOptions, frozen=True, kw_only=True):
    """How micro-batches flow through the stages."""

    schedule: ScheduleName = "1f1b"
    """"gpipe" keeps the activations of the whole batch, "1f1b" those of at most as many micro-batches as stages;
    "looped-bfs" and "interleaved-1f1b" do the same with several stages a rank, which shortens the bubble;
    "zero-bubble", "zbv" and "dualpipev" fill it with the gradients of weights."""
    virtual_stages: Annotated[int, Meta(ge=1)] | None = None
    """Stages a rank, where the schedule leaves it open. Not given: 2 there, 1 for gpipe and 1f1b."""


class Pp(MeshStrategy):
    """pp takes all ranks."""

    name = "pp"
    summary = "a stage of the model on every rank, micro-batches flow through"
    Options = PpOptions

    def layout(self, world: World, options: PpOptions) -> Mesh:
        """Make a stage of every rank."""
        return Mesh(pp=world.size)


STRATEGY = Pp()
