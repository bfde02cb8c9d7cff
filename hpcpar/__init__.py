"""hpcpar: which parallel strategy, on how many nodes, at what price."""

from importlib import import_module
from typing import Any

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    # The version is read from the installed metadata only when somebody asks: importlib.metadata costs 15 ms.
    if name == "__version__":
        return import_module("importlib.metadata").version("hpcpar")
    raise AttributeError(f"module 'hpcpar' has no attribute {name!r}")
