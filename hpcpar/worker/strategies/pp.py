"""Pipeline parallel training: the model's units cut into as many stages as there are ranks."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from hpcpar.registry import Trainer, World
from hpcpar.spec import Mesh


class PpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How micro-batches flow."""

    schedule: Literal["1f1b", "gpipe"] = "1f1b"
    """"1f1b" keeps at most as many activations as there are stages, "gpipe" those of the whole batch."""


class Pp:
    """pp takes all ranks."""

    name = "pp"
    summary = "a stage of the model on every rank, micro-batches flow through"
    kinds = frozenset({"neural"})
    extras = ("torch",)
    Options = PpOptions

    def layout(self, world: World, options: PpOptions) -> Mesh:
        """Make a stage of every rank."""
        return Mesh(pp=world.size)

    def build(self, context: Any, workload: Any, options: PpOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.mesh_engine.build import EngineOptions, build

        return build(context, workload, EngineOptions(schedule=options.schedule))


STRATEGY = Pp()
