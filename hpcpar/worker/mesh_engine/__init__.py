"""The one engine for strategies that are points of the mesh. Imports torch: only `Strategy.build` may import it."""

from hpcpar.worker.mesh_engine.build import EngineOptions, build

__all__ = ["EngineOptions", "build"]
