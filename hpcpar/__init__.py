"""hpcpar: which parallel strategy, on how many nodes, at what price."""

from hpcpar.log import log

__all__ = ["log"]
__version__ = "0.1.0"
