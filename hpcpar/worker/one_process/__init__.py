"""Strategies that use several devices from one process. Imports torch: only `Strategy.build` may import it."""
