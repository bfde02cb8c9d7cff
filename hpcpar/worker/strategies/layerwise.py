"""Layers on different devices of one process, one batch at a time: the seed of pipelining."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from msgspec import Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class LayerwiseOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the model is cut."""

    cuts: tuple[int, ...] = ()
    """The units (counted from 0) that begin on the next device, rising, e.g. [2, 5]; empty: one part a device, of even
    weight by parameters (on a CPU two parts)."""

    def __post_init__(self) -> None:
        if any(second <= first for first, second in pairwise((0, *self.cuts))):
            raise ValueError(f"cuts {list(self.cuts)} must rise and begin at 1 or more: unit 0 is on the first device")


class Layerwise:
    """One rank that holds several devices."""

    name = "layerwise"
    summary = "layers on different devices of one process, one batch at a time"
    kinds = frozenset({"neural", "mixture-of-experts", "adapters"})
    extras = ("torch",)
    no_checkpoints = ""
    looks_at_gradients = True
    Options = LayerwiseOptions

    def layout(self, world: World, options: LayerwiseOptions) -> Mesh:
        """Accept one rank only."""
        if world.size != 1:
            raise ValueError(
                f"layerwise is one process, this world has {world.nodes} x {world.ranks_per_node} ranks: "
                "choose one node with one rank, or pp, which spreads the layers over ranks and nodes"
            )
        return Mesh()

    def build(self, context: Any, workload: Any, options: LayerwiseOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.one_process.layers import build

        return build(context, workload, options.cuts)


STRATEGY = Layerwise()
