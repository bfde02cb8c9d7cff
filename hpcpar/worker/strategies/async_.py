"""Asynchronous training with a parameter server and bounded staleness.

A step is one update at the server: one step of the workload's optimizer on one global batch, a gradient from each
rank. Ranks do not wait for each other as long as the parameters that they get are at most `staleness_bound` updates
behind (worker/delayed/server.py has the rule). All ranks work; rank 0 serves as well, in threads of its own.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class AsyncOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How late a gradient may be."""

    staleness_bound: Annotated[int, Meta(ge=0)] = 2
    """A gradient is computed with parameters at most this many updates old; 0 computes what ddp computes."""


class Async:
    """dp_replicate takes all ranks."""

    name = "async"
    summary = "asynchronous gradients to a parameter server, staleness bounded and recorded"
    kinds = frozenset({"neural"})
    extras = ("torch",)
    no_checkpoints = "its gradients are on their way at any time"
    Options = AsyncOptions

    def layout(self, world: World, options: AsyncOptions) -> Mesh:
        """Replicate over all ranks."""
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: AsyncOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.delayed.asynchronous import build

        return build(context, workload, options.staleness_bound)


STRATEGY = Async()
