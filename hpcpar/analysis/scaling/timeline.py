"""What the ranks of a pipeline do one after the other, and when, if every pass takes its time and no message any.

A rank's forward pass of a micro-batch takes 1, its backward pass 2, and with v stages a rank each stage 1/v of it. The
orders are torch's (torch.distributed.pipelining 2.13; a test compares). Those of schedules that split the backward pass
are made by torch alone.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from hpcpar.schedules import SCHEDULES, ScheduleName, stages_of

Kind = Literal["F", "B"]
_TIMES: dict[Kind, float] = {"F": 1.0, "B": 2.0}


class Step(NamedTuple):
    """A pass of one micro-batch through one stage."""

    kind: Kind
    stage: int
    micro_batch: int


class Pass(NamedTuple):
    """A step, and when it is done."""

    rank: int
    step: Step
    begin: float
    end: float


def order(name: ScheduleName, p: int, m: int, v: int) -> dict[int, list[Step]] | None:
    """Return what each rank does; None for schedules whose order only torch makes."""
    if SCHEDULES[name].splits_backward:
        return None
    made = {"1f1b": _one_forward_one_backward, "interleaved-1f1b": _interleaved}.get(name, _all_forward_first)
    return {rank: made(rank, p, m, v) for rank in range(p)}


def timeline(orders: dict[int, list[Step]], v: int) -> list[Pass]:
    """Let every rank do its steps in order, each as soon as what it needs is there."""
    last = len(orders) * v - 1
    done: dict[Step, float] = {}
    clock, place = dict.fromkeys(orders, 0.0), dict.fromkeys(orders, 0)
    passes: list[Pass] = []
    total = sum(map(len, orders.values()))
    while len(passes) < total:
        before = len(passes)
        for rank, steps in orders.items():
            while place[rank] < len(steps):
                step = steps[place[rank]]
                needed = _needs(step, last)
                if needed is not None and needed not in done:
                    break
                begin = max(clock[rank], done[needed] if needed is not None else 0.0)
                clock[rank] = done[step] = begin + _TIMES[step.kind] / v
                passes.append(Pass(rank, step, begin, clock[rank]))
                place[rank] += 1
        assert len(passes) > before, "the order waits for itself"
    return passes


def _needs(step: Step, last: int) -> Step | None:
    """Return the step that must be done before."""
    if step.kind == "F":
        return None if step.stage == 0 else step._replace(stage=step.stage - 1)
    return step._replace(kind="F") if step.stage == last else step._replace(stage=step.stage + 1)


def _all_forward_first(rank: int, p: int, m: int, v: int) -> list[Step]:
    stages = [rank + turn * p for turn in range(v)]
    back = range(m) if v == 1 else range(m - 1, -1, -1)
    forward = [Step("F", stage, i) for stage in stages for i in range(m)]
    return forward + [Step("B", stage, i) for stage in reversed(stages) for i in back]


def _one_forward_one_backward(rank: int, p: int, m: int, v: int) -> list[Step]:
    ahead = min(m, p - rank)
    steps = [Step("F", rank, i) for i in range(ahead)]
    for i in range(m):
        steps.append(Step("B", rank, i))
        steps += [Step("F", rank, ahead + i)] if ahead + i < m else []
    return steps


def _interleaved(rank: int, p: int, m: int, v: int) -> list[Step]:
    """Narayanan et al. 2021 (arXiv:2104.04473), section 2.2.2; micro-batches go round in groups."""
    group = m // max(1, m // p)
    ahead = min(m * v, (v - 1) * group + 2 * (p - 1 - rank))

    def at(number: int, kind: Kind) -> Step:
        turn = number // group % v
        stage = stages_of(SCHEDULES["interleaved-1f1b"], rank, p, v)[turn if kind == "F" else v - 1 - turn]
        return Step(kind, stage, number // (group * v) * group + number % group)

    steps = [at(number, "F") for number in range(ahead)]
    for number in range(m * v):
        steps += [at(ahead + number, "F")] if ahead + number < m * v else []
        steps.append(at(number, "B"))
    return steps
