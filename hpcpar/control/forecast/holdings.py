"""What a rank holds all the time, whatever it is doing: weights, gradients, moments, and copies of its engine. Pure.

All in bytes. docs/sharding.md has these sums beside counted tensors.
"""

from __future__ import annotations

from typing import NamedTuple

from hpcpar.control.forecast.engines import BUCKET, FUSION, LIVE, Meeting, Ring, Server, Zero
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
        return _zero(units, beside, moments)
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


def _zero(units: list[UnitShape], zero: Zero, moments: int) -> Held:
    """DeepSpeed updates copies of its part; whole gradients gather in a bucket until it is full."""
    dense, buffers = sum(unit.dense for unit in units), sum(unit.buffers for unit in units)
    part = dense / zero.shards
    parameters = part if zero.stage == 3 else dense
    bucket = NUMBER * (dense if zero.stage == 1 else min(dense, BUCKET))
    return Held(
        NUMBER * (0 if zero.offload_parameters else parameters) + buffers,
        bucket + (NUMBER * part if zero.stage > 1 and not zero.offload_optimizer else 0),
        0 if zero.offload_optimizer else (moments + NUMBER) * part,
        trained=part,
    )


def _server(plain: Held, ranks: int) -> Held:
    """Return what rank 0 holds, which serves: of every other rank, the parameters sent to it and its last gradient."""
    vector = plain.gradients
    return Held(
        2 * plain.parameters,
        vector,
        plain.moments,
        copies=(3 + 2 * (ranks - 1)) * vector,  # what it took itself, the mean of gradients, a vector to compare with
        trained=plain.trained,
    )


def gathered_at_most(layout: Layout, units: list[UnitShape]) -> float:
    """Return how many numbers of other ranks' weights ZeRO 3 lets be there: it gives none back that come again soon."""
    zero = layout.zero
    assert zero is not None
    return min(sum(unit.dense for unit in units), LIVE) if zero.stage == 3 else 0.0
