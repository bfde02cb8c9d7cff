"""What the pipeline schedules need, as data. Names and rules as in torch.distributed.pipelining (torch 2.13)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

ScheduleName = Literal["1f1b", "gpipe", "looped-bfs", "interleaved-1f1b", "zero-bubble", "zbv", "dualpipev"]


class Schedule(NamedTuple):
    """One schedule."""

    torch_name: str
    """Class of torch.distributed.pipelining."""
    stages_per_rank: int
    """Virtual stages a rank; where `fixed` is False it is the default."""
    fixed: bool = True
    v_shape: bool = False
    """Rank r has the stages r and 2 x ranks - 1 - r, else r, r + ranks, r + 2 x ranks, ..."""
    splits_backward: bool = False
    """The gradients of inputs and of weights are computed at different times."""
    in_rounds: bool = False
    """Micro-batches go in rounds of equal size."""
    fills: Literal["nothing", "ranks", "stages"] = "ranks"
    """There are at least as many micro-batches as this."""


SCHEDULES: dict[ScheduleName, Schedule] = {
    "gpipe": Schedule("ScheduleGPipe", 1, fills="nothing"),
    "1f1b": Schedule("Schedule1F1B", 1),
    "looped-bfs": Schedule("ScheduleLoopedBFS", 2, fixed=False, fills="nothing"),
    "interleaved-1f1b": Schedule("ScheduleInterleaved1F1B", 2, fixed=False, in_rounds=True),
    "zero-bubble": Schedule("ScheduleInterleavedZeroBubble", 2, fixed=False, splits_backward=True, in_rounds=True),
    "zbv": Schedule("ScheduleZBVZeroBubble", 2, v_shape=True, splits_backward=True),
    "dualpipev": Schedule("ScheduleDualPipeV", 2, v_shape=True, splits_backward=True, fills="stages"),
}


def stages_of(schedule: Schedule, rank: int, ranks: int, stages_per_rank: int) -> list[int]:
    """Return the stages of a rank of the pipeline, in the order in which micro-batches meet them."""
    if schedule.v_shape:
        return [rank, 2 * ranks - 1 - rank]
    return [rank + turn * ranks for turn in range(stages_per_rank)]


class Bubble(NamedTuple):
    """The share of a step in which a rank of a pipeline has nothing to do, passes of equal time taken for granted."""

    share: float | None
    """None where there is no formula."""
    is_bound: bool = False
    """The share is a bound from below."""


def bubble(name: ScheduleName, p: int, m: int, v: int) -> Bubble:
    """Return the bubble of a schedule of p ranks, m micro-batches and v stages a rank.

    GPipe and 1F1B: Narayanan et al. 2021 (arXiv:2104.04473), section 2.2; with v stages a rank: section 2.2.2. ZB-H1:
    Qi et al. 2023 (arXiv:2401.10241), table 2, with equal times. ZB-V and DualPipeV have none for torch's order.
    """
    if p == 1:
        return Bubble(0.0)
    if not SCHEDULES[name].splits_backward:
        return Bubble((p - 1) / (v * m + p - 1))
    if name == "zero-bubble":
        return Bubble((p - 1) / (3 * v * m + p - 1), is_bound=v != 1)
    return Bubble(None)


def partition(weights: Sequence[int], parts: int) -> tuple[int, ...]:
    """Split a sequence into consecutive, non-empty parts so that the heaviest one is as light as can be.

    Returns:
        The `parts` + 1 bounds: part i is weights[bounds[i]:bounds[i + 1]].
    """

    @cache
    def best(begin: int, left: int) -> tuple[int, tuple[int, ...]]:
        if left == 1:
            return sum(weights[begin:]), (begin, len(weights))
        options = []
        for end in range(begin + 1, len(weights) - left + 2):
            rest, bounds = best(end, left - 1)
            options.append((max(sum(weights[begin:end]), rest), (begin, *bounds)))
        return min(options)

    return best(0, parts)[1]
