"""The steps of a run to one time: which steps count, and why there is no time where there is none."""

from __future__ import annotations

import functools
import math
import operator
import statistics
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import chain, compress, pairwise
from typing import Annotated, ClassVar, NamedTuple, TypeVar

from msgspec import Meta, Struct
from msgspec.structs import replace

from hpcpar.analysis.rows.steady import MOST, settled
from hpcpar.records import LONGEST_S, Step, StepTime

SHORTEST_S = 1e-9
"""Nothing is shorter than a tick of a nanosecond clock: such a time is a damaged number."""
MAX_LOST_SHARE = 0.1
"""A window that lost more than this to damage is no longer the window that was asked for."""


SMOOTHING = 10
"""Steps over which a loss is averaged before it is held against a target: one lucky batch reaches nothing."""
TREND_BLOCKS = 10
SHORTEST_BLOCK = 4
T_OF_TREND = 3.355
_PLACES = [place - (TREND_BLOCKS - 1) / 2 for place in range(TREND_BLOCKS)]
_SQUARES = math.fsum([place * place for place in _PLACES])
V = TypeVar("V")


class SoundStep(Struct, kw_only=True, gc=False):
    """A Step that the decoder found possible, which costs nothing there, and applied; its loss was not asked for."""

    step: int
    time_s: Annotated[float, Meta(ge=SHORTEST_S, le=LONGEST_S)]
    time_mean_s: Annotated[float, Meta(ge=0)]
    slowest: int
    data_s: Annotated[float, Meta(ge=0, le=LONGEST_S)] = 0.0
    applied: None = None
    """Written only of an update that was skipped: such a step is not sound."""
    loss: ClassVar[float | None] = None


_Timed = Step | StepTime | SoundStep


class Reached(NamedTuple):
    """Where a loss was reached first: the step, and the seconds of all steps up to it, warm-up included."""

    step: int
    time_s: float


class Window(Struct, frozen=True, kw_only=True):
    """What the steps of a run say. Times are None where the window is not whole; `reason` says why."""

    steps_measured: int = 0
    """Distinct steps with a usable time, warm-up included."""
    steps_used: int = 0
    """Distinct steps with a usable time after the warm-up cut."""
    mean_s: float | None = None
    """Total time over number of steps, so that work / mean is total work over total time."""
    p50_s: float | None = None
    trend: float | None = None
    """Relative change of the time over the window, where it is more than chance; None: steady, or too short to say."""
    reached: Reached | None = None
    """Where the target loss was reached; None: nobody asked, or it was not."""
    data_wait_s: float | None = None
    """Mean over the window of the longest wait for samples, which is no part of the step time."""
    loss_last: float | None = None
    duplicate_steps: int = 0
    """Lines that a later line of the same step replaced."""
    rejected_steps: int = 0
    """Lines with an impossible time or step number."""
    skipped_updates: int = 0
    """Steps of the window whose update was not applied."""
    updates: int = 0
    """Distinct steps with a usable time whose update was applied, warm-up included."""
    updates_s: float = 0.0
    """Seconds of these, waits for samples included."""
    load_balance: float | None = None
    """Time of the mean rank over time of the slowest rank, over the window."""
    slowest: int = 0
    """The rank that was slowest most often."""
    warmup_cut: int = 0
    """Steps that were cut after each begin."""
    not_steady: bool = False
    """The step time was not steady after any warm-up that was looked for."""
    reason: str = ""


class _Picked(NamedTuple):
    steps: Sequence[_Timed]
    """Those that count, by their numbers."""
    numbers: Sequence[int]
    times: list[float]
    duplicates: int = 0
    rejected: int = 0


class _Cut(NamedTuple):
    """What the warm-up leaves of those that count."""

    warmup: int
    """Steps after each begin."""
    not_steady: bool
    used: slice | list[bool]


def measure(
    steps: Sequence[_Timed],
    *,
    planned: int,
    warmup: int,
    reached: int,
    rejected_lines: int,
    target_loss: float | None = None,
    begins: Sequence[int] = (1,),
    until_steady: bool = False,
    sound: bool = False,
) -> Window:
    """Reduce the steps of a run to a window.

    Args:
        steps: in the order of the file; of two lines for one step the later one counts.
        planned: steps that the run was asked for; steps are numbered 1 .. planned.
        warmup: so many steps from each of `begins` on are left out.
        reached: steps that the run says it did (its record); 0 where it says nothing.
        rejected_lines: lines of the file that could not be read. They may explain missing steps.
        target_loss: the loss whose first reaching is looked for.
        begins: the steps with which an attempt began: 1, and where the run went on from a checkpoint.
        until_steady: `warmup` is the least; cut until the first attempt's step time is steady (steady.py).
        sound: all are `SoundStep`.
    """
    picked = _pick(steps, planned, sound=sound)
    starts = sorted({1, *(begin for begin in begins if 1 <= begin <= planned)})
    cut = _cut(picked, starts, planned, warmup, until_steady=until_steady)
    waits = [step.data_s for step in picked.steps]
    window = _counted(picked, cut, waits, sound=sound)
    reason = _why_no_time(window, planned, _num_cut(starts, planned, cut.warmup), reached, rejected_lines)
    if reason:
        return replace(window, reason=reason)
    in_window, times = _of(picked.steps, cut.used), _of(picked.times, cut.used)
    middle, trend = _middle_and_trend(times)
    return replace(
        window,
        mean_s=statistics.fmean(times),
        p50_s=middle,
        trend=trend,
        load_balance=_balance([step.time_mean_s for step in in_window], times, sound=sound),
        slowest=statistics.mode([step.slowest for step in in_window]),
        reached=None if target_loss is None else _first_reaching(picked.steps, target_loss),
        data_wait_s=_mean_wait(_of(waits, cut.used), sound=sound),
    )


def _cut(picked: _Picked, starts: Sequence[int], planned: int, warmup: int, *, until_steady: bool) -> _Cut:
    """Cut the warm-up after each of `starts`."""
    first = picked.times[: bisect_left(picked.numbers, (*starts, planned + 1)[1])]
    found = settled(first, warmup) if until_steady else warmup
    warmup = min(MOST, len(first) // 2) if found is None else found
    return _Cut(warmup, found is None, _after_warmup(picked.numbers, starts, warmup))


def _counted(picked: _Picked, cut: _Cut, waits: Sequence[float], *, sound: bool) -> Window:
    """Return the window without times: what was measured, and the seconds of the updates."""
    counted = picked.steps
    applied = [] if sound else [bool(step.applied) for step in counted]
    done = slice(None) if all(applied) else applied
    return Window(
        steps_measured=len(counted),
        steps_used=len(_of(counted, cut.used)),
        loss_last=counted[-1].loss if counted else None,
        duplicate_steps=picked.duplicates,
        rejected_steps=picked.rejected,
        skipped_updates=_of(applied, cut.used).count(False),
        updates=len(counted) - applied.count(False),
        updates_s=sum(_of(picked.times, done)) + sum(_of(waits, done)),
        warmup_cut=cut.warmup,
        not_steady=cut.not_steady,
    )


def _balance(means: list[float], times: Sequence[float], *, sound: bool) -> float | None:
    """Return the share that tells how evenly ranks are busy; None where a mean is no possible one."""
    possible = (sound or min(means) >= 0) and all(map(operator.le, means, times))
    return sum(means) / sum(times) if possible else None


def _after_warmup(numbers: Sequence[int], starts: Sequence[int], warmup: int) -> slice | list[bool]:
    """Say which of these steps are no warm-up."""
    if len(starts) == 1:
        return slice(bisect_right(numbers, warmup), None)
    return [number - starts[bisect_right(starts, number) - 1] >= warmup for number in numbers]


def _of(values: Sequence[V], chosen: slice | list[bool]) -> Sequence[V]:
    """Return the chosen ones; the many runs that never stopped have a slice, which costs nothing."""
    return values[chosen] if isinstance(chosen, slice) else list(compress(values, chosen))


def _mean_wait(waits: Sequence[float], *, sound: bool) -> float | None:
    if not any(waits):
        return 0.0
    return statistics.fmean(waits) if sound or (min(waits) >= 0 and max(waits) <= LONGEST_S) else None


def _first_reaching(steps: Sequence[_Timed], loss: float) -> Reached | None:
    """Find the first step at which the mean of the last `SMOOTHING` losses is at or below `loss`."""
    recent: deque[float] = deque(maxlen=SMOOTHING)
    time_s = 0.0
    for step in steps:
        time_s += step.time_s
        if step.loss is None:
            return None  # it diverged on the way
        recent.append(step.loss)
        if len(recent) == SMOOTHING and statistics.fmean(recent) <= loss:
            return Reached(step.step, time_s)
    return None


def _middle_and_trend(times: Sequence[float]) -> tuple[float, float | None]:
    """Return the median, and the relative change over the window by a line through the logarithms of blocks' medians.

    Ten blocks, as neighbouring steps are correlated; medians, as a stall is no trend. A change is reported where
    Student's t of the slope has p < 0.01 (t > 3.355 with 8 degrees of freedom): checks of many runs must not cry wolf
    in every tenth.
    """
    length = len(times) // TREND_BLOCKS
    blocks = [sorted(times[i * length : (i + 1) * length]) for i in range(TREND_BLOCKS)]
    # What is sorted in blocks is sorted as a whole in half the time.
    middle = _middle(sorted(chain(*blocks, times[TREND_BLOCKS * length :])))
    if length < SHORTEST_BLOCK:
        return middle, None
    medians = [math.log(_middle(block)) for block in blocks]
    centre = statistics.fmean(medians)
    slope = math.fsum(map(operator.mul, _PLACES, medians)) / _SQUARES
    residual = math.fsum([(y - centre - slope * x) ** 2 for x, y in zip(_PLACES, medians, strict=True)])
    error = math.sqrt(residual / (TREND_BLOCKS - 2) / _SQUARES)
    return middle, math.expm1(slope * (TREND_BLOCKS - 1)) if abs(slope) > T_OF_TREND * error else None


def _middle(ordered: list[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _num_cut(starts: Sequence[int], planned: int, warmup: int) -> int:
    """Count the steps of all warm-ups; no more than there are steps before the next attempt, but for the last one."""
    between = [min(warmup, after - begin) for begin, after in pairwise(starts)]
    return sum(between) + (warmup if len(starts) == 1 else min(warmup, planned + 1 - starts[-1]))


def _pick(steps: Sequence[_Timed], planned: int, *, sound: bool) -> _Picked:
    times = [step.time_s for step in steps]
    numbers = [step.step for step in steps]
    # Lengths first: a damaged plan may ask for a million million steps.
    if len(steps) == planned and numbers == _from_one_to(planned) and (sound or _all_possible(times)):
        return _Picked(steps, numbers, times)  # every step once, in order: nothing to look at one by one
    by_number: dict[int, _Timed] = {}
    duplicates = rejected = 0
    for step in steps:
        if not (SHORTEST_S <= step.time_s <= LONGEST_S and 1 <= step.step <= planned):
            rejected += 1
            continue
        duplicates += step.step in by_number
        by_number[step.step] = step
    numbers = sorted(by_number)
    counted = [by_number[number] for number in numbers]
    return _Picked(counted, numbers, [step.time_s for step in counted], duplicates, rejected)


@functools.lru_cache(maxsize=8)
def _from_one_to(last: int) -> list[int]:
    return list(range(1, last + 1))


def _all_possible(times: list[float]) -> bool:
    return not times or (min(times) >= SHORTEST_S and max(times) <= LONGEST_S and not math.isnan(sum(times)))


def _why_no_time(window: Window, planned: int, warmup: int, reached: int, rejected_lines: int) -> str:
    """Say why the window gives no time; "" where it does.

    A step that a damaged line swallowed costs that step and is counted. A gap that nothing explains costs the time:
    the run did not do, or did not write, what it was asked for.
    """
    if warmup >= planned:
        return f"the warm-up cut of {warmup} steps leaves nothing of {planned} planned steps"
    lost = planned - window.steps_measured
    explained = window.rejected_steps + rejected_lines if reached >= planned else 0
    if lost > explained:
        return (
            f"{window.steps_measured} of {planned} steps were recorded"
            if window.steps_measured
            else "no step was recorded"
        )
    lost_here = planned - warmup - window.steps_used
    if lost_here > MAX_LOST_SHARE * (planned - warmup):
        return f"{lost_here} of the window's {planned - warmup} steps could not be read"
    return ""
