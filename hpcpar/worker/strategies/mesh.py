"""What all points of the mesh have in common. A strategy beside it says which axes it fills, and what it offers."""

from __future__ import annotations

from typing import Any

from hpcpar.mesh_options import EngineOptions, engine_options
from hpcpar.registry import Trainer


class MeshStrategy:
    """A point of the mesh; subclasses add name, summary, Options and layout."""

    kinds = frozenset({"neural", "mixture-of-experts", "adapters"})
    extras = ("torch",)
    no_checkpoints = ""
    looks_at_gradients = True

    def engine(self, options: Any) -> EngineOptions:
        """Say what the engine shall do, for the composition rules and for `build`."""
        return engine_options(options)

    def build(self, context: Any, workload: Any, options: Any) -> Trainer:
        """Build the trainer (job)."""
        from hpcpar.worker.mesh_engine.build import build

        return build(context, workload, self.engine(options))
