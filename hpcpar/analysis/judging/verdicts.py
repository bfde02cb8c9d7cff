"""May one say that something improves, changes nothing, or deteriorates? The decision, from one number a run.

Everything happens on logarithms: an effect is the difference of two arms' means, its exponential the ratio. "No
change" must be shown (two one-sided tests, TOST: D. J. Schuirmann, J. Pharmacokin. Biopharm. 15, 1987), it is never
what is left when a test fails; a difference counts only where it is larger than the margin. See docs/verdicts.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from msgspec import Struct

from hpcpar.analysis.judging import intervals
from hpcpar.analysis.judging.intervals import Estimate, exp
from hpcpar.analysis.judging.metrics import Better

ALPHA = 0.05
MISSED = 0.2
"""How often the suggested repeats may leave a comparison unsettled in which nothing differs."""
MOST_REPEATS = 1000
"""Beyond this a suggestion of repeats is no suggestion."""
_IDENTICAL = 1e-12
"""Relative: numbers that agree to this are one number, whatever their last bits say."""
Basis = Literal["unpaired", "paired", "deterministic"]


class Word(StrEnum):
    """What is said of a comparison."""

    IMPROVES = "improves"
    NO_CHANGE = "no change"
    DETERIORATES = "deteriorates"
    INCONCLUSIVE = "inconclusive"
    NOT_ENOUGH_RUNS = "not enough runs"
    NOT_COMPARABLE = "not comparable"


class Effect(Struct, frozen=True, kw_only=True):
    """How the logarithms of two arms differ: the compared arm minus its baseline."""

    delta: float
    error: float
    """Standard error of delta; 0 where every arm repeats one number."""
    freedom: float
    """Degrees of freedom of Student's t."""
    spread: float
    """Standard deviation of one run (unpaired, pooled over the arms) or of one difference (paired)."""
    basis: Basis
    runs: tuple[int, int]
    """Of the baseline and of the compared arm."""

    def interval(self, level: float) -> tuple[float, float]:
        """Return the t-interval of delta at this level."""
        half = _t(self.freedom, (1 + level) / 2) * self.error if self.error else 0.0
        return self.delta - half, self.delta + half

    def ratio(self, level: float = 1 - ALPHA) -> Estimate:
        """Return the ratio of the arms with its interval; none where the arms are deterministic."""
        if self.basis == "deterministic":
            return Estimate(exp(self.delta))
        low, high = self.interval(level)
        return Estimate(exp(self.delta), exp(low), exp(high))

    def p_difference(self) -> float:
        """Return the two-sided p of "the arms are the same"."""
        return min(1.0, 2 * _beyond(self.freedom, abs(self.delta) / self.error)) if self.error else 1.0

    def p_equivalence(self, margin: float) -> float:
        """Return the p of "they differ by the margin or more": the larger of two one-sided tests."""
        if not self.error:
            return 1.0
        return _beyond(self.freedom, (math.log1p(margin) - abs(self.delta)) / self.error)


class Verdict(NamedTuple):
    """The word for a comparison, and what belongs to it."""

    word: Word
    strongly: bool = False
    """The whole 95 % interval is beyond the margin."""
    repeats: int | None = None
    """Of an inconclusive comparison: repeats an arm that should settle it; None where no sensible number does."""
    reason: str = ""


def unpaired(baseline: Sequence[float], compared: Sequence[float]) -> Effect | None:
    """Compare two sets of runs: Welch's t on logarithms, freedom after Satterthwaite; None below two runs an arm."""
    if min(len(baseline), len(compared)) < 2:
        return None
    logs = [[math.log(value) for value in arm] for arm in (baseline, compared)]
    delta = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    runs = (len(baseline), len(compared))
    if all(max(arm) - min(arm) <= _IDENTICAL for arm in logs):
        return Effect(delta=delta, error=0.0, freedom=1, spread=0.0, basis="deterministic", runs=runs)
    variances = [intervals.variance(arm) for arm in logs]
    v0, v1 = (variance / count for variance, count in zip(variances, runs, strict=True))
    share = v0 / (v0 + v1)
    freedom = 1 / (share**2 / (runs[0] - 1) + (1 - share) ** 2 / (runs[1] - 1))
    pooled = sum(v * (n - 1) for v, n in zip(variances, runs, strict=True)) / (sum(runs) - 2)
    return Effect(
        delta=delta, error=math.sqrt(v0 + v1), freedom=freedom, spread=math.sqrt(pooled), basis="unpaired", runs=runs
    )


def paired(pairs: Sequence[tuple[float, float]]) -> Effect | None:
    """Compare runs that shared an allocation, as (baseline, compared); None below two pairs."""
    count = len(pairs)
    if count < 2:
        return None
    differences = [math.log(compared) - math.log(baseline) for baseline, compared in pairs]
    delta, runs = statistics.fmean(differences), (count, count)
    if max(differences) - min(differences) <= _IDENTICAL:
        return Effect(delta=delta, error=0.0, freedom=1, spread=0.0, basis="deterministic", runs=runs)
    spread = math.sqrt(intervals.variance(differences))
    error = spread / math.sqrt(count)
    return Effect(delta=delta, error=error, freedom=count - 1, spread=spread, basis="paired", runs=runs)


def decide(
    effect: Effect,
    margin: float,
    better: Better,
    *,
    p_difference: float | None = None,
    p_equivalence: float | None = None,
) -> Verdict:
    """Say what the effect shows.

    Args:
        effect: of at least two runs an arm.
        margin: ratios within 1/(1 + margin) .. 1 + margin count as no change.
        better: whether less or more of the metric is good.
        p_difference: adjusted for the other comparisons of the table; None: not adjusted.
        p_equivalence: likewise.
    """
    bound = math.log1p(margin)
    good = (effect.delta < 0) == (better == "lower")
    claim = Word.IMPROVES if good else Word.DETERIORATES
    beyond = abs(effect.delta) > bound
    if effect.basis == "deterministic":
        return Verdict(claim, strongly=True) if beyond else Verdict(Word.NO_CHANGE)
    differs = effect.p_difference() if p_difference is None else p_difference
    same = effect.p_equivalence(margin) if p_equivalence is None else p_equivalence
    if same < ALPHA:
        return Verdict(Word.NO_CHANGE)
    if differs < ALPHA and beyond:
        low, high = effect.interval(1 - ALPHA)
        return Verdict(claim, strongly=min(abs(low), abs(high)) > bound and low * high > 0)
    strictest = max(_growth(differs, effect.p_difference()), _growth(same, effect.p_equivalence(margin)))
    return Verdict(
        Word.INCONCLUSIVE, repeats=repeats_needed(effect, margin, ALPHA / strictest), reason=_why(effect, margin)
    )


def _growth(adjusted: float, p: float) -> float:
    """Return by how much an adjustment raised a p-value: alpha must fall by as much for a suggestion to hold."""
    return max(1.0, adjusted / p) if 0 < p <= adjusted < 1 else 1.0


def _why(effect: Effect, margin: float) -> str:
    """Say why nothing can be said, where that is not simply a wide interval."""
    alone = effect.p_equivalence(margin) < ALPHA or (
        effect.p_difference() < ALPHA and abs(effect.delta) > math.log1p(margin)
    )
    if alone:
        return "it would be settled alone, but not among the comparisons of this table (Holm)"
    low, high = effect.interval(1 - ALPHA)
    if low * high > 0 and abs(effect.delta) <= math.log1p(margin):
        return "a difference is likely, but it is not shown to be within the margin, nor is it beyond"
    return ""


def repeats_needed(effect: Effect, margin: float, alpha: float = ALPHA) -> int | None:
    """Suggest repeats an arm: the least N >= 2 ((t1 + t2) s / d)^2 with d = ln(1 + margin).

    t1 and t2 are the quantiles 1 - alpha and 0.9 of Student's t with the freedom of N runs an arm: where nothing
    differs, N runs then show it in four of five cases (a power of 0.8; 2 (t s / d)^2 would do in three of five
    only). A paired design needs no factor 2. Where that many are there already, the difference lies near the margin,
    and its distance from what would settle it takes d's place. None: more than `MOST_REPEATS`.
    """
    bound = math.log1p(margin)
    distance = abs(effect.delta) if abs(effect.delta) > bound else bound - abs(effect.delta)
    have = min(effect.runs)
    for wanted in (bound, distance):
        count = _least(effect, wanted, alpha)
        if count is None or count > have:
            return count
    return have + 1  # arms of unequal size, or a table with many comparisons


def _least(effect: Effect, half_width: float, alpha: float) -> int | None:
    arms = 1 if effect.basis == "paired" else 2

    def enough(count: int) -> bool:
        freedom = arms * (count - 1)
        return (_t(freedom, 1 - alpha) + _t(freedom, 1 - MISSED / 2)) * effect.spread * math.sqrt(
            arms / count
        ) <= half_width

    if not enough(MOST_REPEATS):
        return None
    low, high = 1, MOST_REPEATS  # low is never enough: one run has no interval
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for being several (S. Holm, Scandinavian Journal of Statistics 6, 1979); same order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _t(freedom: float, probability: float) -> float:
    from scipy.special import stdtrit  # the function alone: scipy.stats would cost a second at start

    return float(stdtrit(freedom, probability))


def _beyond(freedom: float, t: float) -> float:
    """Return the probability that Student's t exceeds `t`."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
