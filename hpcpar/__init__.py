"""hpcpar: which parallel strategy, on how many nodes, at what price."""

__version__ = "0.1.0"
