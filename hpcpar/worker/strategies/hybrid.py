"""Several axes at once: by default a pipeline of two stages, replicated over the rest."""

from __future__ import annotations

from hpcpar.mesh import Mesh, parse_mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import World
from hpcpar.worker.strategies.mesh import MeshStrategy


class HybridOptions(EngineOptions, frozen=True, kw_only=True):
    """The mesh and what its axes need."""

    mesh: str = "pp=2,dp=-1"
    """Sizes of the axes, -1 fills; `dp` means dp_replicate."""


class Hybrid(MeshStrategy):
    """The mesh that the options name."""

    name = "hybrid"
    summary = "a mesh of several axes: pipeline stages x replicas x shards"
    Options = HybridOptions

    def layout(self, world: World, options: HybridOptions) -> Mesh:
        """Fill the mesh; one rank is one stage, whatever the default says."""
        if world.size == 1 and options.mesh == HybridOptions().mesh:
            return Mesh()
        return parse_mesh(options.mesh, world.size)


STRATEGY = Hybrid()
