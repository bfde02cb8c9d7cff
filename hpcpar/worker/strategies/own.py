"""The strategy of a program that spreads its work itself: hpcpar starts it on every rank and watches."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class OwnOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """There is nothing to choose: the program does what it does."""


class Own:
    """A batch is split over all ranks, as under ddp; what the program makes of that is its own affair."""

    name = "own"
    summary = "the program spreads its work itself"
    kinds = frozenset({"program"})
    extras = ("torch",)
    Options = OwnOptions

    def layout(self, world: World, options: OwnOptions) -> Mesh:
        """Take all ranks for data ranks: that is what {micro_batch} means."""
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: OwnOptions) -> Trainer:
        """Return what starts the program."""
        from hpcpar.worker.program.run import Program

        program: Any = Program(context, workload)
        return program


STRATEGY = Own()
