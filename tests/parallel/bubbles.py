"""Pipeline schedules: their bubbles and the activations that they keep, by formula and from the order torch gives them.

Words: p ranks, m micro-batches, v stages a rank. A stage's forward pass, the gradients of its inputs and those of its
weights take one unit of time each. The bubble is the share of a step in which a rank has nothing to do, on average.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed
from torch.distributed import pipelining
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from hpcpar.schedules import SCHEDULES, ScheduleName, stages_of

TIMES = {"F": 1, "I": 1, "W": 1, "B": 2}
"""Forward, inputs' gradients, weights' gradients, both gradients."""
Step = tuple[str, int, int]
"""(what, stage, micro-batch)"""


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
    steps = [("F", rank, i) for i in range(ahead)]
    for i in range(m):
        steps.append(("B", rank, i))
        steps += [("F", rank, ahead + i)] if ahead + i < m else []
    return steps


def _steps(actions: list[Any]) -> Iterator[Step]:
    for action in actions:
        for part in (action and action.sub_actions) or [action]:
            kind = part and part.computation_type.value
            if kind in TIMES:
                yield kind, part.stage_index, part.microbatch_index


def simulated(orders: dict[int, list[Step]], num_stages: int) -> float:
    """Return the bubble of orders whose messages take no time."""
    done: dict[Step, int] = {}
    clock, left = dict.fromkeys(orders, 0), {rank: list(steps) for rank, steps in orders.items()}
    while any(left.values()):
        ready = [rank for rank, steps in left.items() if steps and _begin(steps[0], num_stages, done) is not None]
        assert ready, "the order waits for itself"
        for rank in ready:
            step = left[rank].pop(0)
            begin = max(clock[rank], _begin(step, num_stages, done) or 0)
            clock[rank] = done[step] = begin + TIMES[step[0]]
    busy = [sum(TIMES[kind] for kind, _, _ in steps) for steps in orders.values()]
    return 1 - sum(busy) / len(busy) / max(clock.values())


def _begin(step: Step, num_stages: int, done: dict[Step, int]) -> int | None:
    """Return when a step may begin; None while what it needs has no time yet."""
    kind, stage, m = step
    if kind == "F":
        return 0 if stage == 0 else done.get(("F", stage - 1, m))
    if kind == "W":
        return done.get(("I", stage, m))
    if stage == num_stages - 1:
        return done.get(("F", stage, m))
    return done.get(("I", stage + 1, m), done.get(("B", stage + 1, m)))


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
    for kind, _, _ in orders[rank]:
        alive += (kind == "F") - (kind in "BW")
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
