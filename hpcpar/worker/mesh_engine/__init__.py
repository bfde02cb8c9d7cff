"""The one engine for strategies that are points of the mesh. Imports torch: only `Strategy.build` may import it."""
