"""What a rank holds all the time, whatever it is doing: weights, gradients, moments, and copies of its engine. Pure.

All in bytes. docs/sharding.md has these sums beside counted tensors.
"""

from __future__ import annotations

from typing import NamedTuple

from hpcpar.control.forecast.engines import BUCKET, FUSION, LIVE, PREFETCH, Meeting, Ring, Server, Zero
from hpcpar.control.forecast.layout import Layout
from hpcpar.shapes import UnitShape

NUMBER = 4
"""Bytes of a weight, of its gradient and of what is sent of them: fp32 is what is kept and added up (strategies.md)."""


class Held(NamedTuple):
    """What a rank holds."""

    parameters: float
    gradients: float
    moments: float
    copies: float = 0.0
    """Of weights or gradients, which an engine keeps for itself."""
    trained: float = 0.0
    """Numbers of which this rank has the optimizer's state."""


def held(units: list[UnitShape], layout: Layout, moments: int) -> Held:
    """Return what a rank holds of these units; `moments` is what the optimizer keeps of a number."""
    beside = layout.beside
    if isinstance(beside, Zero):
        return _zero(units, layout, beside, moments)
    plain = _mesh(units, layout, moments)
    replicas = layout.mesh.dp_replicate
    if isinstance(beside, Meeting) and beside.outer:  # common weights, their gradients and momentum
        return plain._replace(moments=plain.moments + 3 * plain.gradients)
    if isinstance(beside, Server):
        return _server(plain, replicas)
    if isinstance(beside, Ring) and replicas > 1:
        return plain._replace(copies=min(FUSION, beside.bytes_each * plain.trained))
    return plain


def _mesh(units: list[UnitShape], layout: Layout, moments: int) -> Held:
    """Return what docs/sharding.md counts: a parameter, its gradient, its moments, each over the axes that share it."""
    shards = layout.mesh.dp_shard
    spread, buffers = sum(unit.spread for unit in units), sum(unit.buffers for unit in units)
    if layout.engine.cpu_offload and shards > 1 and layout.gpu:
        return Held(buffers, 0, 0)
    mine = sum(unit.dense for unit in units) / shards + spread
    trained = sum(unit.trained for unit in units) / shards + spread
    return Held(NUMBER * mine + buffers, NUMBER * trained, moments * trained, trained=trained)


def _zero(units: list[UnitShape], layout: Layout, zero: Zero, moments: int) -> Held:
    """DeepSpeed updates copies of its part; stage 3 keeps the bucket in which gradients gather."""
    dense, buffers = sum(unit.dense for unit in units), sum(unit.buffers for unit in units)
    part = dense / zero.shards
    parameters = part if zero.stage == 3 else dense
    gradients = NUMBER * (dense if zero.stage == 1 else 0 if zero.offload_optimizer else part)
    return Held(
        NUMBER * (0 if zero.offload_parameters else parameters) + buffers,
        gradients + (bucket(dense, layout) if zero.stage == 3 else 0.0),
        0 if zero.offload_optimizer else (moments + NUMBER) * part,
        trained=part,
    )


def bucket(filled: float, layout: Layout) -> float:
    """Return what DeepSpeed's bucket takes with so many numbers in it: what was never touched is no memory on a CPU."""
    return NUMBER * float(BUCKET if layout.gpu else min(filled, BUCKET))


def _server(plain: Held, ranks: int) -> Held:
    """Return what rank 0 holds, which serves: of every other rank, the parameters sent to it and its last gradient.

    Its own gradient has no way to go and is the first one: when the last arrives, what it took itself is given back.
    """
    vector = plain.gradients
    return Held(
        2 * plain.parameters,
        vector,
        plain.moments,
        copies=(2 + 2 * (ranks - 1)) * vector,  # the mean of the last gradients, and a vector to receive like
        trained=plain.trained,
    )


def gathered_at_most(layout: Layout, units: list[UnitShape]) -> float:
    """Return how many numbers of gathered weights ZeRO 3 lets be there: it gives none back that come again soon, and
    copies them out of the piece in which they came."""
    zero = layout.zero
    assert zero is not None
    dense = sum(unit.dense for unit in units)
    return float(min(dense, LIVE) + min(dense, PREFETCH)) if zero.stage == 3 else 0.0
