"""Data parallel training through Horovod's ring all-reduce, where Horovod is installed."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class HorovodOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How gradients are sent."""

    compression: Literal["none", "fp16"] = "none"
    """"fp16" sends half as many bytes, and rounds every gradient to 11 bits."""


class Horovod:
    """dp_replicate takes all ranks."""

    name = "horovod"
    summary = "Horovod: a replica on every rank, gradients added up in a ring (Horovod is to be built by hand)"
    kinds = frozenset({"neural"})
    extras = ("torch", "horovod")
    no_checkpoints = "Horovod wraps the optimizer, and nobody has tried"
    Options = HorovodOptions

    def layout(self, world: World, options: HorovodOptions) -> Mesh:
        """Replicate over all ranks."""
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: HorovodOptions) -> Trainer:
        """Build the trainer (job)."""
        from hpcpar.worker.horovod_ring import build

        return build(context, workload, options.compression)


STRATEGY = Horovod()
