"""Pipeline parallel training: the model's units cut into stages, micro-batches flow through them."""

from __future__ import annotations

from msgspec import Struct

from hpcpar.mesh_options import ScheduleName
from hpcpar.registry import World
from hpcpar.spec import Mesh
from hpcpar.worker.strategies.mesh import MeshStrategy


class PpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How micro-batches flow through the stages."""

    schedule: ScheduleName = "1f1b"
    """"1f1b" keeps at most as many activations as there are stages, "gpipe" those of the whole batch."""


class Pp(MeshStrategy):
    """pp takes all ranks."""

    name = "pp"
    summary = "a stage of the model on every rank, micro-batches flow through"
    Options = PpOptions

    def layout(self, world: World, options: PpOptions) -> Mesh:
        """Make a stage of every rank."""
        return Mesh(pp=world.size)


STRATEGY = Pp()
