"""Pipeline schedules: their bubbles and the activations that they keep, by formula and from the order torch gives them.

Words: p ranks, m micro-batches, v stages a rank. A stage's forward pass, the gradients of its inputs and those of its
weights take one unit of time each. The bubble is the share of a step in which a rank has nothing to do, on average.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import distributed
from torch.distributed import pipelining
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from hpcpar.schedules import SCHEDULES, ScheduleName, stages_of

TIMES = {"F": 1, "I": 1, "W": 1, "B": 2}
"""Forward, inputs' gradients, weights' gradients, both gradients."""


class Step(NamedTuple):
    """What a rank does at a time."""

    kind: str
    stage: int
    micro_batch: int
    told: bool = True
    """Whether other ranks hear of it at once; else with the step after it, where torch makes one action of both."""


@contextlib.contextmanager
def fake_world(size: int, rank: int = 0) -> Iterator[None]:
    """Let this process believe that it is one of `size` ranks; nobody answers, and nothing is sent."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def make_schedule(name: ScheduleName, modules: dict[int, Any], num_stages: int, m: int, loss: Any) -> Any:
    """Make torch's schedule for the stages of a rank, as the mesh engine does."""
    device = torch.device("cpu")
    made = [pipelining.PipelineStage(module, i, num_stages, device) for i, module in modules.items()]
    schedule = getattr(pipelining.schedules, SCHEDULES[name].torch_name)
    single = issubclass(schedule, PipelineScheduleSingle)
    return schedule(made[0] if single else made, n_microbatches=m, loss_fn=loss, scale_grads=False)


def order(name: ScheduleName, p: int, m: int, v: int) -> dict[int, list[Step]]:
    """Return what each rank does, in torch's order."""
    if name == "1f1b":
        return {rank: _one_forward_one_backward(p, m, rank) for rank in range(p)}
    with fake_world(p):
        mine = stages_of(SCHEDULES[name], 0, p, v)
        schedule = make_schedule(name, {i: torch.nn.Identity() for i in mine}, p * v, m, None)
    return {rank: list(_steps(actions)) for rank, actions in schedule.pipeline_order.items()}


def _one_forward_one_backward(p: int, m: int, rank: int) -> list[Step]:
    # torch 2.13's own list leaves out the first micro-batch of the last rank; what it runs is this.
    ahead = min(m, p - rank)
    steps = [Step("F", rank, i) for i in range(ahead)]
    for i in range(m):
        steps.append(Step("B", rank, i))
        steps += [Step("F", rank, ahead + i)] if ahead + i < m else []
    return steps


def _steps(actions: list[Any]) -> Iterator[Step]:
    for action in actions:
        parts = (action and action.sub_actions) or [action]
        for part in parts:
            kind = part and part.computation_type.value
            if kind in TIMES:
                yield Step(kind, part.stage_index, part.microbatch_index, told=part is parts[-1])


def simulated(orders: dict[int, list[Step]], num_stages: int) -> float:
    """Return the bubble of orders whose messages take no time."""
    pipeline = _Pipeline(orders, num_stages)
    clock, left = dict.fromkeys(orders, 0), {rank: list(steps) for rank, steps in orders.items()}
    while any(left.values()):
        ready = [rank for rank, steps in left.items() if steps and pipeline.begin(rank, steps[0]) is not None]
        assert ready, "the order waits for itself"
        for rank in ready:
            step = left[rank].pop(0)
            clock[rank] = max(clock[rank], pipeline.begin(rank, step) or 0) + TIMES[step.kind]
            pipeline.end(rank, step, clock[rank])
    busy = [sum(TIMES[step.kind] for step in steps) for steps in orders.values()]
    return 1 - sum(busy) / len(busy) / max(clock.values())


class _Pipeline:
    """Knows when what a step needs is there."""

    def __init__(self, orders: dict[int, list[Step]], num_stages: int) -> None:
        self._num_stages = num_stages
        self._ranks = {step.stage: rank for rank, steps in orders.items() for step in steps}
        self._done: dict[tuple[str, int, int], int] = {}
        self._told: dict[tuple[str, int, int], int] = {}
        self._untold: dict[int, list[tuple[str, int, int]]] = {rank: [] for rank in orders}

    def end(self, rank: int, step: Step, at: int) -> None:
        """Note that a step has ended."""
        self._done[step[:3]] = at
        self._untold[rank].append(step[:3])
        if step.told:
            self._told |= dict.fromkeys(self._untold[rank], at)
            self._untold[rank].clear()

    def begin(self, rank: int, step: Step) -> int | None:
        """Return when a step may begin; None while what it needs has no time yet."""
        kind, stage, m, _ = step
        if kind == "F":
            return 0 if stage == 0 else self._when(rank, "F", stage - 1, m)
        if kind == "W":
            return self._when(rank, "I", stage, m)
        if stage == self._num_stages - 1:
            return self._when(rank, "F", stage, m)
        inputs_alone = self._when(rank, "I", stage + 1, m)
        return self._when(rank, "B", stage + 1, m) if inputs_alone is None else inputs_alone

    def _when(self, rank: int, kind: str, stage: int, m: int) -> int | None:
        return (self._done if self._ranks[stage] == rank else self._told).get((kind, stage, m))


def bubble(name: ScheduleName, p: int, m: int, v: int) -> float | None:
    """Return the bubble by its published formula; None where there is none for torch's order.

    GPipe and 1F1B: Narayanan et al. 2021 (arXiv:2104.04473), section 2.2; interleaved: section 2.2.2. ZB-H1, which is
    zero-bubble with one stage a rank: Qi et al. 2023 (arXiv:2401.10241), table 2, with equal times.
    """
    if name in {"gpipe", "1f1b", "looped-bfs", "interleaved-1f1b"}:
        return (p - 1) / (v * m + p - 1)
    return (p - 1) / (3 * m + p - 1) if name == "zero-bubble" and v == 1 else None


def kept(orders: dict[int, list[Step]], rank: int) -> int:
    """Return the most activations (stages x micro-batches) that a rank keeps at a time, in this order."""
    alive = most = 0
    for step in orders[rank]:
        alive += (step.kind == "F") - (step.kind in "BW")
        most = max(most, alive)
    return most


def kept_by_formula(name: ScheduleName, p: int, m: int, v: int, rank: int) -> int | None:
    """Return the same by its published formula (of a rank of a pipeline with m >= p); None where there is none.

    Same sources as `bubble`; interleaved: Megatron-LM's number of warm-up passes, and one.
    """
    if name in {"gpipe", "looped-bfs"}:
        return m * v
    if name == "1f1b":
        return min(m, p - rank)
    if name == "interleaved-1f1b":
        return min(m * v, 2 * (p - rank - 1) + (v - 1) * p + 1)
    return None
