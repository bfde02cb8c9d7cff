"""One process: the measure of all other strategies."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hpcpar.registry import Trainer, World
from hpcpar.spec import Mesh


class SingleOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing to choose."""


class Single:
    """Everything on one rank, without a process group."""

    name = "single"
    summary = "one process, the baseline"
    kinds = frozenset({"neural"})
    extras = ("torch",)
    Options = SingleOptions

    def layout(self, world: World, options: SingleOptions) -> Mesh:
        """Accept one rank only."""
        if world.size != 1:
            raise ValueError(
                f"single is one process, this world has {world.nodes} x {world.ranks_per_node} ranks: "
                "choose one node with one rank, or a strategy that spreads work"
            )
        return Mesh()

    def build(self, context: Any, workload: Any, options: SingleOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.mesh_engine.build import EngineOptions, build

        return build(context, workload, EngineOptions())


STRATEGY = Single()
