"""One process: the measure of all other strategies."""

from __future__ import annotations

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import UnitOptions
from hpcpar.registry import World
from hpcpar.worker.strategies.mesh import MeshStrategy


class SingleOptions(UnitOptions, frozen=True, kw_only=True):
    """What does not need a second process."""


class Single(MeshStrategy):
    """Everything on one rank, without a process group."""

    name = "single"
    summary = "one process, the baseline"
    Options = SingleOptions

    def layout(self, world: World, options: SingleOptions) -> Mesh:
        """Accept one rank only."""
        if world.size != 1:
            raise ValueError(
                f"single is one process, this world has {world.nodes} x {world.ranks_per_node} ranks: "
                "choose one node with one rank, or a strategy that spreads work"
            )
        return Mesh()


STRATEGY = Single()
