"""The arithmetic of batches: global_batch = micro_batch x grad_accum x data ranks, exactly. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from hpcpar.errors import Problem
from hpcpar.mesh import Mesh


class BatchSizes(NamedTuple):
    """How a global batch is split."""

    global_batch: int
    micro_batch: int
    grad_accum: int


def split_batch(
    global_batch: int, micro_batch: int | None, mesh: Mesh, where: str, least: int | None = None
) -> BatchSizes | Problem:
    """Split a global batch over a mesh, or say what is wrong and which sizes nearby would fit.

    Under a pipeline the micro-batches are the accumulation steps: 1F1B needs at least as many as there are stages, and
    the bubble shrinks with more, so twice as many are taken where they divide. `least` is how many micro-batches a
    schedule takes where that is not the number of ranks of the pipeline.
    """
    data_ranks, stages = mesh.data_ranks, least or mesh.pp
    unit = data_ranks * (micro_batch or 1) * stages if stages > 1 else data_ranks * (micro_batch or 1)
    if global_batch % (data_ranks * (micro_batch or 1)):
        parts = f"{data_ranks} data ranks" + (f" x micro-batches of {micro_batch}" if micro_batch else "")
        return Problem(
            where, f"a global batch of {global_batch} does not divide over {parts}", _fits(global_batch, unit)
        )
    per_rank = global_batch // data_ranks
    grad_accum = per_rank // micro_batch if micro_batch else _accumulation(per_rank, stages)
    if stages > 1 and grad_accum < stages:
        what = f"a pipeline of {stages} stages needs at least {stages} micro-batches, the batch gives {grad_accum}"
        return Problem(where, what, _fits(global_batch, unit))
    return BatchSizes(global_batch, per_rank // grad_accum, grad_accum)


def _accumulation(per_rank: int, stages: int) -> int:
    if stages == 1:
        return 1
    # Divisors come in pairs: counting up to the root finds them all, however large the batch.
    small = [d for d in range(1, math.isqrt(per_rank) + 1) if per_rank % d == 0]
    divisors = sorted({*small, *(per_rank // d for d in small)})
    enough = [d for d in divisors if d >= 2 * stages] or [d for d in divisors if d >= stages]
    return enough[0] if enough else per_rank


def _fits(global_batch: int, unit: int) -> str:
    below, above = global_batch // unit * unit, -(-global_batch // unit) * unit
    sizes = sorted({size for size in (below, above if above > below else above + unit) if size > 0})
    return f"sizes that fit: {', '.join(str(size) for size in sizes)} (multiples of {unit})"
