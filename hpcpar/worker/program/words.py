"""The words of a user's command line, and the numbers of the run that are put into them. Pure.

A command line is a list of words from beginning to end; no shell ever reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from hpcpar.spec import Identity

_NAME = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}", re.ASCII)
PLACEHOLDERS = (
    "global_batch",
    "micro_batch",
    "grad_accum",
    "steps",
    "seed",
    "repeat",
    "nodes",
    "ranks_per_node",
    "world_size",
    "cpus_per_rank",
)
"""What may stand in braces; the environment variable HPCPAR_NAME (in capitals) has the same number."""
BATCH = frozenset({"global_batch", "micro_batch"})
"""A program that takes one of these does what the plan says."""


def numbers(identity: Identity) -> dict[str, int]:
    """Return the value of every placeholder."""
    return {name: getattr(identity, name) for name in PLACEHOLDERS}


def placeholders(words: Iterable[str]) -> set[str]:
    """Return the names that stand in braces."""
    return {match.group(2) for word in words for match in _NAME.finditer(word) if match.group(2)}


def filled(words: Iterable[str], values: Mapping[str, int]) -> list[str]:
    """Put the values in; {{name}} becomes {name}."""

    def replace(match: re.Match[str]) -> str:
        literal, name = match.groups()
        return f"{{{literal}}}" if literal else str(values[name])

    return [_NAME.sub(replace, word) for word in words]


def variables(identity: Identity) -> dict[str, str]:
    """Return the environment variables that say the same."""
    return {f"HPCPAR_{name.upper()}": str(value) for name, value in numbers(identity).items()}
