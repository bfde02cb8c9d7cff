"""Workers of one node for what is fitted as a whole: threads of this process, or processes of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class OneNodeOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many."""

    workers: Annotated[int, Meta(ge=0)] = 0
    """At most as many as the rank has CPUs; 0: as many."""


class OneNode:
    """joblib, one rank."""

    kinds = frozenset({"estimator"})
    extras = ("torch",)
    Options = OneNodeOptions

    def __init__(self, name: str, backend: Literal["threading", "loky"], summary: str) -> None:
        self.name, self.summary, self._backend = name, summary, backend

    def layout(self, world: World, options: OneNodeOptions) -> Mesh:
        """Accept one rank only."""
        if world.size != 1:
            raise ValueError(
                f"{self.name} spreads work over the CPUs of one rank, this world has {world.nodes} x "
                f"{world.ranks_per_node} ranks: choose one node with one rank, and more --cpus-per-rank"
            )
        return Mesh()

    def build(self, context: Any, workload: Any, options: OneNodeOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.fits.one_node import build

        return build(context, workload, self._backend, options.workers)


THREADS = OneNode("threads", "threading", "joblib's threads, or an estimator's own, on one node")
PROCESSES = OneNode("processes", "loky", "joblib's processes on one node, or an estimator's own threads")
