"""One process: the measure of all other strategies."""

from __future__ import annotations

from typing import Any

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import UnitOptions
from hpcpar.registry import Trainer, World, load
from hpcpar.worker.strategies.mesh import MeshStrategy

_BUILDERS = dict.fromkeys(("boosting", "external-boosting"), "hpcpar.worker.trees.grow:build")
"""Who builds the trainer of a workload that is no point of the mesh, by its kind."""


class SingleOptions(UnitOptions, frozen=True, kw_only=True):
    """What does not need a second process."""


class Single(MeshStrategy):
    """Everything on one rank, without a process group."""

    name = "single"
    summary = "one process, the baseline"
    kinds = MeshStrategy.kinds | _BUILDERS.keys()
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
        """Build the trainer (job): the workload's kind says how."""
        builder = _BUILDERS.get(workload.declared.kind)
        if builder is None:
            return super().build(context, workload, options)
        trainer: Trainer = load(builder)(context, workload)
        return trainer


STRATEGY = Single()
