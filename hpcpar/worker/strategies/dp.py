"""Several devices in one process (torch.nn.DataParallel): the classic control, which ddp has replaced."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class DpOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing to choose: it takes all devices that its process sees."""


class Dp:
    """One rank that holds several devices."""

    name = "dp"
    summary = "torch's DataParallel: replicas on several devices of one process, a control"
    kinds = frozenset({"neural", "adapters"})
    extras = ("torch",)
    no_checkpoints = ""
    looks_at_gradients = True
    Options = DpOptions

    def layout(self, world: World, options: DpOptions) -> Mesh:
        """Accept one rank only."""
        if world.size != 1:
            raise ValueError(
                f"dp is one process, this world has {world.nodes} x {world.ranks_per_node} ranks: "
                "choose one node with one rank, or ddp, which replicates over ranks and nodes"
            )
        return Mesh()

    def build(self, context: Any, workload: Any, options: DpOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.one_process.data_parallel import build

        return build(context, workload)


STRATEGY = Dp()
