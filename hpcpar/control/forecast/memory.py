"""How much memory a rank needs at its worst moment: what it holds, and what lives while it computes. Pure.

docs/plan.md has the formulae beside what was measured. All in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct

from hpcpar import composition
from hpcpar.control.forecast.engines import BUCKET, Meeting, Server
from hpcpar.control.forecast.holdings import NUMBER, Held, bucket, gathered_at_most, held
from hpcpar.control.forecast.layout import Layout, Stage, in_flight, stages_on
from hpcpar.shapes import Answer, Model, UnitShape, highest

MARGIN = 0.10
"""Of the tensors, on top: what a GPU's allocator cannot use. A run fits for certain where it fits with this."""
HEAP = 1.25
"""The same on a CPU: the C library keeps blocks that were given back, as many again as there are tensors (docs/plan.md
has what was measured)."""
PROCESS = {"gpu": 1.0 * 2**30, "cpu": 0.75 * 2**30}
"""What a process takes without any tensor: torch itself on a CPU (0.4 GiB measured; more with DeepSpeed), the context
and the libraries of a GPU (assumed: none was at hand)."""
DDP_PIECES = 2 * 250 * 2**20
"""DDP brings weights to all ranks in pieces of 250 MiB, two at a time (torch, nn/parallel/distributed.py and
c10d/comm.cpp)."""
ACTIVE_STAGES = 3
"""Stages of a rank whose weights torch has gathered at a time (distributed/pipelining/schedules.py)."""


class Need(Struct, frozen=True, kw_only=True):
    """What the rank that needs most needs at its worst moment."""

    parameters: float
    gradients: float
    moments: float
    activations: float
    """All that lives between the passes of the micro-batches that are under way, and in the pass at work."""
    buffers: float
    """Copies for communication: weights that are gathered, gradients that are sent, micro-batches that arrive."""
    batch: float
    moment: str
    """When it needs that."""
    place: int
    """Which rank of the pipeline."""

    @property
    def total(self) -> float:
        """Bytes of tensors."""
        return self.parameters + self.gradients + self.moments + self.activations + self.buffers + self.batch


class _Moment(NamedTuple):
    name: str
    gradients: float
    activations: float
    buffers: float


def need(model: Model, layout: Layout, answer: Answer) -> Need:
    """Return what the rank of a pipeline needs that needs most."""
    return max((_on(model, layout, answer, place) for place in range(layout.mesh.pp)), key=lambda one: one.total)


def _on(model: Model, layout: Layout, answer: Answer, place: int) -> Need:
    stages = stages_on(model, layout, place)
    mine = held([unit for stage in stages for unit in stage.units], layout, answer.moments)
    fixed = _received(stages, layout, in_flight(layout, place)) + mine.copies
    batch = answer.sample_bytes * layout.micro_batch * layout.grad_accum / layout.mesh.cp
    moments = [
        *_start(stages, layout),
        *_under_way(model, stages, layout, mine, in_flight(layout, place)),
        *_reduction(stages, layout),
        _update(stages, layout, answer, mine),
        *_meetings(layout, mine),
    ]
    worst = max(moments, key=lambda m: m.gradients + m.activations + m.buffers)
    return Need(
        parameters=mine.parameters,
        gradients=worst.gradients,
        moments=mine.moments,
        activations=worst.activations,
        buffers=worst.buffers + fixed,
        batch=batch,
        moment=worst.name,
        place=place,
    )


def _received(stages: list[Stage], layout: Layout, waiting: int) -> float:
    """Return what a pipeline receives into: torch keeps room for every micro-batch, in both directions.

    DeepSpeed has one buffer for each direction and copies of what waits (runtime/pipe/engine.py).
    """
    b, m = layout.micro_batch, layout.grad_accum if layout.zero is None else max(2, waiting) + 1
    received = 0.0
    for stage in stages:
        if stage.neighbours:
            received += 0 if stage.first else m * stage.units[0].input.at(b)
            received += 0 if stage.last else m * stage.units[-1].output.at(b)
    return received


def _meetings(layout: Layout, mine: Held) -> Iterator[_Moment]:
    """Yield what replicas copy where they meet: all that is averaged in one vector, and its product with a weight."""
    if isinstance(layout.beside, Meeting) and layout.mesh.dp_replicate > 1:
        inner = mine.moments - (3 * mine.gradients if layout.beside.outer else 0)
        averaged = mine.gradients + (inner if layout.beside.moments else 0)
        yield _Moment("the meeting", mine.gradients, 0.0, 2 * averaged)
    if isinstance(layout.beside, Server):
        # A gradient, its copy in one vector; and the sum so far, a product, the sum of both.
        yield _Moment("the server's update", 2 * mine.gradients, 0.0, 3 * mine.gradients)


def _under_way(model: Model, stages: list[Stage], layout: Layout, mine: Held, waiting: int) -> Iterator[_Moment]:
    """Yield the moments of the passes; `waiting` of them are under way at a time."""
    each = [_kept(stage, model.loss, layout) for stage in stages]
    between = (waiting - 1) * sum(each) / len(each)
    gradients_stay = _gradients_stay(layout)
    accumulated, whole = _accumulated(stages, layout), _whole(stages)
    for stage in stages:
        moments = _passes(stage, model.loss, layout, mine, stays=gradients_stay, whole=whole)
        for name, gradients, activations, buffers in moments:
            yield _Moment(name, gradients, activations + between, buffers + accumulated)


def _start(stages: list[Stage], layout: Layout) -> Iterator[_Moment]:
    """Yield what DDP copies when it is built: frozen weights, too, come from rank 0 in pieces."""
    if _is_ddp(layout):
        whole = sum(NUMBER * (unit.dense + unit.spread) + unit.buffers for stage in stages for unit in stage.units)
        yield _Moment("the start", 0.0, 0.0, min(whole, DDP_PIECES))


def _reduction(stages: list[Stage], layout: Layout) -> Iterator[_Moment]:
    """Yield the end of a backward pass under ZeRO 1 and 2: a full bucket, and whole gradients or what is sent."""
    zero = layout.zero
    if zero is not None and zero.stage < 3:
        dense = sum(unit.trained for stage in stages for unit in stage.units)
        sent = dense if zero.stage == 1 else min(dense, BUCKET)
        arrived = dense / zero.shards if zero.stage == 2 and (layout.grad_accum > 1 or dense > BUCKET) else 0.0
        yield _Moment("the reduction", NUMBER * arrived, 0.0, NUMBER * sent + bucket(dense, layout))


def _update(stages: list[Stage], layout: Layout, answer: Answer, mine: Held) -> _Moment:
    units = [unit for stage in stages for unit in stage.units]
    # ZeRO 1 and 2 have nothing but their part of them by then, in the piece that they update with.
    there = 0.0 if layout.zero is not None and layout.zero.stage < 3 else mine.gradients
    return _Moment("the update", there, 0.0, _at_update(units, layout, answer, mine))


def _is_ddp(layout: Layout) -> bool:
    mesh = layout.mesh
    return mesh.dp_replicate > 1 and mesh.dp_shard == 1 and mesh.pp == 1 and not layout.alone and layout.zero is None


def _gradients_stay(layout: Layout) -> bool:
    """Say whether gradients are there while a backward pass goes on: of replicas in buckets, else of other passes."""
    return _is_ddp(layout) or layout.grad_accum > 1 or (layout.zero is not None and layout.zero.stage == 3)


def _accumulated(stages: list[Stage], layout: Layout) -> float:
    """FSDP2 adds up the gradients of several micro-batches before it scatters them: whole ones, of all units.

    Those of experts, which it is not told of, are there as well.
    """
    if layout.mesh.dp_shard == 1 or layout.grad_accum == 1 or layout.zero is not None:
        return 0.0
    return NUMBER * sum(unit.trained + unit.spread for stage in stages for unit in stage.units)


def _kept(stage: Stage, loss: UnitShape, layout: Layout) -> float:
    """Return what a micro-batch leaves in a stage between its two passes."""
    held_output = stage.units[-1].output.at(layout.micro_batch) if layout.mesh.pp > 1 else 0.0
    return sum(_layers(stage, loss, layout)) + held_output


def _layers(stage: Stage, loss: UnitShape, layout: Layout) -> list[float]:
    """Return for each unit of a stage (and the loss) what it keeps, and its output where somebody keeps that."""
    b = layout.micro_batch
    chain = [*stage.units, loss] if stage.last else list(stage.units)
    sizes = []
    for i, unit in enumerate(chain):
        kept = unit.kept.at(b)
        if layout.mesh.dp_shard > 1 and layout.engine.precision != "fp32":
            kept -= max(0.0, unit.kept.fixed)  # sharded weights are cast before they travel, and are no copies
        follows = chain[i + 1] if i + 1 < len(chain) else None
        kept_output = unit.keeps_output or (follows is not None and follows.keeps_input)
        sizes.append(kept + (unit.output.at(b) if kept_output else 0.0))
    return sizes


def _passes(stage: Stage, loss: UnitShape, layout: Layout, mine: Held, *, stays: bool, whole: int) -> Iterator[_Moment]:
    """Go forward through a stage and back, and yield the highest points in every unit."""
    b = layout.micro_batch
    chain = [*stage.units, loss] if stage.last else list(stage.units)
    layers = _layers(stage, loss, layout)
    sharded = layout.mesh.dp_shard > 1 and layout.zero is None
    # FSDP2 makes a unit's share where it gives the whole up, which is counted as accumulated.
    there = mine.gradients if stays and not (sharded and layout.grad_accum > 1) else 0.0
    if _experts_apart(layout):
        there -= NUMBER * sum(unit.spread for unit in chain)
    below = 0.0
    for i, unit in enumerate(chain):
        kept_by_other = i == 0 or chain[i - 1].keeps_output or unit.keeps_input
        entry = 0.0 if kept_by_other else unit.input.at(b)
        forward, backward = (_gathered(chain, i, layout, whole, forward=forward) for forward in (True, False))
        yield _Moment(f"forward, unit {i + 1}", there, below + entry + highest(unit.forward.peak, b), forward)
        made = there + _made(chain[i + 1 :], layout, stays=stays)
        if _experts_apart(layout):
            made += NUMBER * unit.spread
        peak = highest(unit.backward_again if stays and not sharded else unit.backward.peak, b)
        yield _Moment(f"backward, unit {i + 1}", made, below + peak, backward)
        if sharded:  # when it ends, its whole gradient is there twice: once in the buffer that is scattered
            twice = 2 * NUMBER * unit.trained
            yield _Moment(f"backward, end of unit {i + 1}", made, below + unit.input.at(b), backward + twice)
        below += layers[i]


def _made(behind: list[UnitShape], layout: Layout, *, stays: bool) -> float:
    """Return what the units behind the one that is at work have made of gradients beside those that are there anyway.

    Those of ZeRO 1 and 2 go into a bucket, too; stage 2 has nothing else of them.
    """
    made = NUMBER * sum(_own(unit, layout) for unit in behind)
    if layout.zero is not None and layout.zero.stage < 3:
        filled = bucket(sum(unit.trained for unit in behind), layout)
        return filled + (made if layout.zero.stage == 1 and not stays else 0.0)
    if _experts_apart(layout):
        return NUMBER * sum(float(unit.spread) for unit in behind)
    return 0.0 if stays else made


def _experts_apart(layout: Layout) -> bool:
    """Say whether DDP has the gradients of all but the experts in its buckets: theirs come and go with the passes."""
    return _is_ddp(layout) and layout.grad_accum == 1


def _own(unit: UnitShape, layout: Layout) -> float:
    """Return how many numbers of a unit's gradient stay on a rank."""
    return unit.trained / (layout.mesh.dp_shard if layout.zero is None else 1) + unit.spread


def _whole(stages: list[Stage]) -> int:
    """Return how many numbers of weights a rank has where none are given back: those of all stages that are active."""
    return sum(sorted(sum(unit.dense for unit in stage.units) for stage in stages)[-ACTIVE_STAGES:])


def _gathered(chain: list[UnitShape], i: int, layout: Layout, whole: int, *, forward: bool) -> float:
    """Return what FSDP2 (or ZeRO 3) has of other ranks' weights while unit i is at work.

    A unit's weights arrive in one flat buffer and are copied out of it; going back, the next unit's are fetched ahead.
    `whole` is how many numbers there are of stages that keep theirs.
    """
    if layout.zero is not None:
        return NUMBER * gathered_at_most(layout, chain)
    if layout.mesh.dp_shard == 1:
        return 0.0
    size = 2 if layout.engine.precision != "fp32" else NUMBER
    if not composition.reshards(layout.mesh, layout.engine):
        return size * (whole + (chain[i].dense if forward else 0))
    if layout.mesh.pp > 1 and not forward:  # torch's pipelines keep what a backward pass has gathered for the next one
        in_turn = layout.engine.schedule == "looped-bfs"  # all micro-batches go back through a stage, then the next
        return float(size * (sum(unit.dense for unit in chain) if in_turn else whole))
    ahead = chain[i] if forward else chain[max(0, i - 1)]
    return float(size * (chain[i].dense + ahead.dense))


def _at_update(units: list[UnitShape], layout: Layout, answer: Answer, mine: Held) -> float:
    """Return what is copied between the last backward pass and the next step."""
    copied = _flat(units, layout, mine)
    if answer.update is None:
        return copied
    one = NUMBER if layout.gpu else highest(answer.update.peak, 1)
    if layout.zero is not None:  # one parameter to the optimizer: all that is this rank's, and its gradient in one
        return 0.0 if layout.zero.offload_optimizer else (NUMBER + one) * mine.trained
    return max(copied, one * _updated_at_a_time(units, layout))


def _flat(units: list[UnitShape], layout: Layout, mine: Held) -> float:
    """Return the larger one of the messages in which gradients are added up in one piece: of experts, of all others."""
    mesh, experts = layout.mesh, NUMBER * sum(unit.spread for unit in units)
    if layout.zero is not None:
        return 0.0
    dense_meet = mesh.cp > 1 or (mesh.pp > 1 and mesh.dp_replicate > 1 and mesh.dp_shard == 1)
    experts_meet = mesh.cp > 1 or mesh.data_ranks > mesh.ep
    return max(mine.gradients - experts if dense_meet else 0.0, experts if experts_meet else 0.0)


def _updated_at_a_time(units: list[UnitShape], layout: Layout) -> float:
    """Return of how many numbers the optimizer takes room at a time. dp_shard does not cut experts."""
    shards = layout.mesh.dp_shard
    if not layout.gpu:  # one parameter after the other
        return max(max(unit.largest / shards, min(unit.largest, unit.spread)) for unit in units)
    # torch.optim on `foreach`: a group in one go. Beside shards, experts are a group of their own.
    dense, spread = sum(unit.trained for unit in units) / shards, sum(unit.spread for unit in units)
    return max(dense, spread) if shards > 1 else dense + spread


def verdict(needed: Need, capacity: float | None, *, gpu: bool) -> str:
    """Say whether a rank fits: "no" where its tensors alone do not, "yes" where they do with every margin.

    Args:
        needed: what it needs.
        capacity: bytes that it can have; None where that is not known.
        gpu: whether that is the memory of a GPU.
    """
    if capacity is None:
        return "unknown"
    if needed.total > capacity:
        return "no"
    return "yes" if fits_for_certain(needed, gpu=gpu) <= capacity else "tight"


def fits_for_certain(needed: Need, *, gpu: bool) -> float:
    """Return the memory in which a rank fits with every margin."""
    margin, process = (MARGIN, PROCESS["gpu"]) if gpu else (HEAP, PROCESS["cpu"])
    return needed.total * (1 + margin) + process
