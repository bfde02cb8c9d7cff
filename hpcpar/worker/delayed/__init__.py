"""Replicas that do not agree after every update. Imports torch: only `Strategy.build` may import it."""
