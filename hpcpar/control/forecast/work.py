"""What a rank has to do in a step: operations, bytes, messages. Pure; the clock says how long that takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from hpcpar import composition, schedules
from hpcpar.control.forecast.engines import BUCKET, FUSION, Meeting, Ring, Server, Zero
from hpcpar.control.forecast.holdings import NUMBER
from hpcpar.control.forecast.layout import Layout, Stage, stages_on
from hpcpar.shapes import Answer, Model, UnitShape

MOST = 1e30
"""Operations or bytes: more than any step has, and sums and products of it are finite."""
Amount = Annotated[float, Meta(ge=0, le=MOST)]
"""Bounds are looked at where it is read from a file."""


class Link(Struct, frozen=True, kw_only=True):
    """What goes over links of one kind in a step."""

    calls: Amount = 0.0
    wire_bytes: Amount = 0.0
    """What one rank sends: of an all-reduce over n ranks 2(n-1)/n of its payload, of others (n-1)/n, all of a send."""

    def plus(self, calls: float, wire_bytes: float) -> Link:
        """Add to it."""
        return Link(calls=self.calls + calls, wire_bytes=self.wire_bytes + wire_bytes)


class Work(Struct, frozen=True, kw_only=True):
    """What the busiest rank does in a step."""

    flops: Amount
    """Operations but for attention, what is computed a second time included."""
    attention: Amount = 0.0
    """The same of fused attention."""
    traffic: Amount
    """Bytes that operators read and write, the optimizer's included."""
    operators: Annotated[float, Meta(gt=0, le=MOST)]
    inside: Link
    """Between ranks of a node."""
    outside: Link
    """Between nodes."""
    bubble: Annotated[float, Meta(ge=0, lt=1)]
    """The share of a step in which a rank of a pipeline waits, on average."""
    bubble_known: bool
    """False: there is no formula for this schedule, `bubble` is a bound from below."""
    useful_flops: Amount
    """Operations of the whole step over all ranks without any that is done twice: what the naive estimate goes by."""
    behind_inside: Link = Link()
    """Between ranks of a node, while something else is computed: weights and gradients of replicas and shards."""
    behind_outside: Link = Link()
    """The same between nodes."""
    passed_inside: Link = Link()
    """From stage to stage of a pipeline, between ranks of a node; calls are those in which a rank receives."""
    passed_outside: Link = Link()
    """The same between nodes."""
    sharing: Annotated[float, Meta(ge=1, le=MOST)] = 1.0
    """How many ranks take turns on what one of them is said to have."""


_WIRE = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "all-to-all": 1.0}


def work(model: Model, plain: Model, layout: Layout, answer: Answer) -> Work:
    """Count a step.

    Args:
        model: its units, as this layout computes them.
        plain: the same without any axis inside its units and without recomputation.
        layout: how the run spreads its work.
        answer: what the optimizer does.
    """
    per_place = [_on(model, layout, answer, place) for place in range(layout.mesh.pp)]
    slowest = max(per_place, key=lambda one: (one.flops + one.attention, one.traffic))
    samples = layout.micro_batch * layout.grad_accum * layout.mesh.data_ranks
    useful = sum(_flops(unit, 1) for unit in [*plain.units, plain.loss]) * samples
    bubble, known = bubble_of(layout)
    return Work(
        flops=slowest.flops,
        attention=slowest.attention,
        traffic=slowest.traffic,
        operators=max(one.operators for one in per_place),
        inside=slowest.inside,
        outside=slowest.outside,
        behind_inside=slowest.behind_inside,
        behind_outside=slowest.behind_outside,
        passed_inside=slowest.passed_inside,
        passed_outside=slowest.passed_outside,
        bubble=bubble,
        bubble_known=known,
        useful_flops=useful,
        sharing=layout.sharing,
    )


def bubble_of(layout: Layout) -> tuple[float, bool]:
    """Return the bubble of a schedule, and whether that is its formula or a bound from below."""
    found = schedules.bubble(layout.engine.schedule, layout.mesh.pp, layout.grad_accum, layout.virtual)
    return found.share or 0.0, found.share is not None and not found.is_bound


def _on(model: Model, layout: Layout, answer: Answer, place: int) -> Work:
    stages = stages_on(model, layout, place)
    units = [unit for stage in stages for unit in stage.units]
    chain = units + [model.loss for stage in stages if stage.last]
    b, m = layout.micro_batch, layout.grad_accum
    links = {f"{kind}{where}": Link() for kind in ("", "behind_", "passed_") for where in ("inside", "outside")}
    for axis, calls, wire in _messages(stages, chain, layout, answer.moments):
        where = "outside" if reaches_out(layout, axis) else "inside"
        if axis in {"dp_shard", "dp_replicate"} and not layout.alone:
            where = f"behind_{where}"
        elif axis == "pp":
            where = f"passed_{where}"
        links[where] = links[where].plus(calls, wire)
    numbers = sum(unit.trained / _updates_of(layout) + unit.spread for unit in units)  # ep has cut experts already
    update = answer.update
    return Work(
        flops=m * sum(unit.forward.flops.at(b) + unit.backward.flops.at(b) for unit in chain),
        attention=m * sum(unit.forward.attention.at(b) + unit.backward.attention.at(b) for unit in chain),
        traffic=m * sum(unit.forward.traffic.at(b) + unit.backward.traffic.at(b) for unit in chain)
        + (update.traffic.per_sample * numbers if update else 0.0),
        operators=m * sum(unit.forward.operators + unit.backward.operators for unit in chain)
        + (update.operators * 8 * len(units) if update else 0),
        inside=links["inside"],
        outside=links["outside"],
        behind_inside=links["behind_inside"],
        behind_outside=links["behind_outside"],
        passed_inside=links["passed_inside"],
        passed_outside=links["passed_outside"],
        bubble=0.0,
        bubble_known=True,
        useful_flops=0.0,
    )


def _updates_of(layout: Layout) -> int:
    """Return over how many ranks the optimizer's work is spread."""
    return layout.zero.shards if layout.zero is not None else layout.mesh.dp_shard


def _flops(unit: UnitShape, samples: float) -> float:
    return sum(line.at(samples) for one in (unit.forward, unit.backward) for line in (one.flops, one.attention))


def reaches_out(layout: Layout, axis: str) -> bool:
    """Say whether the ranks of an axis are on several nodes: ranks of a node are consecutive, tp is the innermost."""
    mesh = layout.mesh
    order = ("tp", "cp", "dp_shard", "dp_replicate", "pp")
    if axis == "ep":  # carved out of the data axes
        return mesh.tp * mesh.cp * mesh.ep > layout.ranks_per_node
    span = 1
    for name in order[: order.index(axis) + 1]:
        span *= getattr(mesh, name)
    return span > layout.ranks_per_node


def _messages(
    stages: list[Stage], chain: list[UnitShape], layout: Layout, moments: int
) -> Iterator[tuple[str, float, float]]:
    """Yield (axis, calls, bytes on the wire) of a step; docs/communication.md has the payloads beside counted ones."""
    mesh, m, b = layout.mesh, layout.grad_accum, layout.micro_batch
    for unit in chain:
        for message in unit.messages:
            factor = 1.0 if message.collective == "send" else _wire(message.collective, getattr(mesh, message.axis))
            yield message.axis, m * message.calls, m * factor * message.payload.at(b)
    for stage in stages:
        # Of every boundary with another rank: what goes on, and what comes back.
        received = stage.units[0].input.at(b) if not stage.first else stage.units[-1].output.at(b)
        yield "pp", m * stage.neighbours, m * stage.neighbours * received
    yield from _of_gradients(stages, layout, moments)


def _wire(collective: str, ranks: int) -> float:
    return _WIRE[collective] * (ranks - 1) / ranks


def _of_gradients(stages: list[Stage], layout: Layout, moments: int) -> Iterator[tuple[str, float, float]]:
    mesh, m, engine = layout.mesh, layout.grad_accum, layout.engine
    units = [unit for stage in stages for unit in stage.units]
    weights, trained = sum(unit.dense for unit in units), sum(unit.trained for unit in units)
    spread = sum(unit.spread for unit in units)
    size = 2 if engine.compression in {"fp16", "bf16"} else NUMBER
    if layout.beside is not None:
        yield from _of_engine(weights, len(units), layout, moments)
    elif mesh.dp_shard > 1:
        yield from _of_shards(weights, trained, len(units), layout)
        if mesh.dp_replicate > 1:
            payload = NUMBER * trained / mesh.dp_shard
            yield "dp_replicate", len(units), _wire("all-reduce", mesh.dp_replicate) * payload
    elif mesh.dp_replicate > 1:
        times = m if engine.static_graph and mesh.pp == 1 else 1
        buckets = max(1.0, NUMBER * trained / (engine.bucket_mb * 2**20)) if mesh.pp == 1 else 1.0
        yield "dp_replicate", times * buckets, times * _wire("all-reduce", mesh.dp_replicate) * size * trained
    if mesh.cp > 1:
        yield "cp", 1, _wire("all-reduce", mesh.cp) * NUMBER * (trained / mesh.dp_shard + spread)
    same = mesh.data_ranks // mesh.ep
    if mesh.ep > 1 and same > 1:
        yield "dp_replicate", 1, _wire("all-reduce", same) * NUMBER * spread


def _of_shards(weights: int, trained: int, units: int, layout: Layout) -> Iterator[tuple[str, float, float]]:
    """FSDP2 as docs/communication.md counts it."""
    mesh, m = layout.mesh, layout.grad_accum
    size = 2 if layout.engine.precision != "fp32" else NUMBER
    if composition.reshards(mesh, layout.engine):
        gathers = 2 * m if mesh.pp == 1 else m + 1
    else:
        gathers = m if mesh.pp == 1 else 1
    over = (mesh.dp_shard - 1) / mesh.dp_shard
    yield "dp_shard", gathers * units, gathers * over * size * weights
    yield "dp_shard", units, over * NUMBER * trained


def _of_engine(weights: int, units: int, layout: Layout, moments: int) -> Iterator[tuple[str, float, float]]:
    """ZeRO: Rajbhandari et al. 2020 (arXiv:1910.02054), section 7; the others as their own code in hpcpar/worker."""
    beside, replicas, vector = layout.beside, layout.mesh.dp_replicate, NUMBER * weights
    if isinstance(beside, Zero) and beside.shards > 1:
        axis = "dp_shard" if layout.mesh.dp_shard > 1 else "dp_replicate"
        gathers = 2 * layout.grad_accum if beside.stage == 3 else 1
        over = (beside.shards - 1) / beside.shards
        yield axis, gathers * units, gathers * over * vector
        # Only stage 1 keeps whole gradients; the others add up those of every micro-batch (runtime/zero/stage*.py).
        times = layout.grad_accum if beside.stage > 1 else 1
        yield axis, times * (1 + weights / BUCKET), times * over * vector
    elif isinstance(beside, Meeting):
        averaged = (NUMBER + (moments if beside.moments else 0)) * weights
        yield "dp_replicate", 1 / beside.period, _wire("all-reduce", replicas) * averaged / beside.period
    elif isinstance(beside, Server):  # rank 0 sends parameters to every other rank, and gets a gradient
        yield "dp_replicate", 5 * (replicas - 1), 2 * (replicas - 1) * vector
    elif isinstance(beside, Ring):
        payload = beside.bytes_each * weights
        yield "dp_replicate", 1 + payload / FUSION, _wire("all-reduce", replicas) * payload
