"""What a larger batch is worth: more samples a second, and more samples that are needed. Pure.

Samples to a target at a global batch of B are E (1 + B / B_crit): McCandlish et al. 2018 (arXiv:1812.06162), equation
2.11; `hpcpar collect --target-loss` fits it (docs/laws.md). At B_crit twice as many are needed as with small batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from hpcpar.control.forecast.forecast import Row


class Worth(Struct, frozen=True, kw_only=True):
    """A global batch beside the study's smallest."""

    global_batch: int
    nodes: int
    strategy: str
    """The one with the most samples a second on these nodes."""
    faster: float
    """Samples a second, as a multiple of the smallest batch's."""
    samples: float
    """Samples to the same target, likewise."""

    sooner: float
    """How many times sooner the target is reached: the one over the other."""


def worth(rows: Sequence[Row], critical_batch: float) -> tuple[Worth, ...]:
    """Compare the batches of a study, from the smallest to the largest; of those on equal nodes the fastest."""
    best: dict[tuple[int, int], Row] = {}
    for row in rows:
        if row.time is None or row.fits == "no" or row.learns_otherwise:
            continue
        key = row.global_batch, row.nodes
        if key not in best or row.time.expected < best[key].time.expected:  # type: ignore[union-attr]
            best[key] = row
    found: list[Worth] = []
    base: Row | None = None
    for (batch, nodes), row in sorted(best.items(), key=lambda pair: pair[0]):
        base = base or row
        assert row.time is not None
        assert base.time is not None
        rate, first = batch / row.time.expected, base.global_batch / base.time.expected
        needed = (1 + batch / critical_batch) / (1 + base.global_batch / critical_batch)
        one = Worth(
            global_batch=batch,
            nodes=nodes,
            strategy=row.strategy,
            faster=rate / first,
            samples=needed,
            sooner=rate / first / needed,
        )
        found.append(one)
    return tuple(found)


def eaten(found: Sequence[Worth]) -> Worth | None:
    """Return the first batch that reaches the target no sooner than the one before it; None where each does."""
    for before, one in pairwise(found):
        if one.global_batch > before.global_batch and one.sooner <= before.sooner:
            return one
    return None
