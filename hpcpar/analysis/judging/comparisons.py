"""Arms against a named baseline: strategies of one table at equal nodes, or one collection against another.

One comparison is one arm, one size and one metric. Those that cannot be made stay in the list and say why.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from hpcpar.analysis.judging import comparability, verdicts
from hpcpar.analysis.judging.intervals import Estimate, exp
from hpcpar.analysis.judging.metrics import Better, Metric, compared, number, values
from hpcpar.analysis.judging.verdicts import Effect, Word
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.flags import asked
from hpcpar.analysis.scaling.series import TableKey
from hpcpar.analysis.text.numbers import plural


class Comparison(Struct, frozen=True, kw_only=True):
    """One arm against its baseline at one size in one metric; docs/verdicts.md defines the fields."""

    strategy: str
    """The compared arm: a series' label."""
    baseline: str
    nodes: int
    metric: str
    better: Better
    margin: float
    runs_baseline: int = 0
    """Pieces of evidence: runs, or seeds for a quality metric."""
    runs_strategy: int = 0
    basis: str = ""
    baseline_value: float | None = None
    """Geometric mean over the baseline's runs, in the metric's unit: the absolute number behind the ratio."""
    ratio: Estimate | None = None
    """Compared arm over baseline, with its 95 % interval."""
    ratio_low90: float | None = None
    ratio_high90: float | None = None
    change_percent: Estimate | None = None
    """Positive is good: 100 (1 - ratio) where less is better, else 100 (ratio - 1)."""
    p_difference: float | None = None
    p_difference_adjusted: float | None = None
    p_equivalence: float | None = None
    p_equivalence_adjusted: float | None = None
    verdict: Word
    strongly: bool = False
    repeats_needed: int | None = None
    more_repeats: int | None = None
    """Of an inconclusive comparison, for each arm, beyond what the smaller one has."""
    reason: str = ""
    flags: tuple[str, ...] = ()


class ComparisonSet(Struct, frozen=True, kw_only=True):
    """The comparisons of one table: the family over which p-values are adjusted."""

    key: TableKey
    baseline: str
    """What all of them are compared with: a series at equal nodes, or a collection."""
    title: str
    facts: tuple[str, ...]
    sample_unit: str = "samples"
    comparisons: tuple[Comparison, ...]
    family: int
    """Hypotheses that were tested: step time and throughput at one batch are one of them."""


class Arms(NamedTuple):
    """What is to be compared."""

    label: str
    baseline_label: str
    nodes: int
    baseline: Sequence[Row]
    """All runs that were asked for, with a result or not; empty where there is none."""
    compared: Sequence[Row]
    factors: frozenset[str] = frozenset()
    """What may differ."""
    refusal: str = ""
    """Why they cannot be compared, whatever their numbers."""


class _Draft(NamedTuple):
    comparison: Comparison
    effect: Effect | None
    hypothesis: tuple[object, ...]


def compare(arms: Sequence[Arms], margins: Mapping[str, float]) -> tuple[tuple[Comparison, ...], int]:
    """Compare all arms in every metric of which there are numbers.

    Returns:
        The comparisons, arm by arm; and the number of hypotheses over which they were adjusted (Holm).
    """
    metrics = compared([row for one in arms for row in (*one.baseline, *one.compared) if row.usable], margins)
    drafts = [draft for one in arms for draft in _drafts(one, metrics, margins)]
    tested: dict[tuple[object, ...], _Draft] = {}
    for draft in drafts:
        if draft.effect is not None and draft.effect.basis != "deterministic":
            tested.setdefault(draft.hypothesis, draft)
    different = _adjusted(tested, "p_difference")
    equivalent = _adjusted(tested, "p_equivalence")
    return (
        tuple(_judged(draft, different.get(draft.hypothesis), equivalent.get(draft.hypothesis)) for draft in drafts),
        len(tested),
    )


def _adjusted(tested: Mapping[tuple[object, ...], _Draft], name: str) -> dict[tuple[object, ...], float]:
    raw = [getattr(draft.comparison, name) for draft in tested.values()]
    return dict(zip(tested, verdicts.holm(raw), strict=True))


class _Sides(NamedTuple):
    """The runs of two arms that have a result, and what stands between them whatever the metric."""

    base: list[Row]
    other: list[Row]
    unlike: list[str]
    spoiled: list[str]


def _drafts(arms: Arms, metrics: Sequence[Metric], margins: Mapping[str, float]) -> list[_Draft]:
    """Make the comparisons of two arms up to the point where the others of their family are needed."""
    base, other = ([row for row in rows if row.usable] for rows in (arms.baseline, arms.compared))
    found = comparability.unlike(base, other, arms.factors) if base and other else ([], [])
    sides = _Sides(base, other, *found)
    return [_draft(arms, sides, metric, margins[metric.name]) for metric in metrics]


def _draft(arms: Arms, sides: _Sides, metric: Metric, margin: float) -> _Draft:
    base, other = sides.base, sides.other
    comparison = Comparison(
        strategy=arms.label,
        baseline=arms.baseline_label,
        nodes=arms.nodes,
        metric=metric.name,
        better=metric.better,
        margin=margin,
        runs_baseline=len(values(base, metric)),
        runs_strategy=len(values(other, metric)),
        verdict=Word.NOT_COMPARABLE,
        flags=tuple(_flags(arms)),
    )
    same_batch = {row.global_batch for row in base} == {row.global_batch for row in other}
    speed = same_batch and metric.name in ("time", "throughput")
    hypothesis = (arms.label, arms.nodes, "speed" if speed else metric.name)
    why = _refusal(arms, sides, metric)
    if why:
        return _Draft(replace(comparison, reason=why), None, hypothesis)
    effect = _effect(base, other, metric)
    if effect is None:
        evidence = "seeds" if metric.quality else "runs"
        counts = f"{comparison.runs_baseline} of the baseline, {comparison.runs_strategy} here"
        reason = f"two {evidence} an arm are the least: {counts}"
        return _Draft(replace(comparison, verdict=Word.NOT_ENOUGH_RUNS, reason=reason), None, hypothesis)
    return _Draft(_measured(comparison, effect, values(base, metric)), effect, hypothesis)


def _refusal(arms: Arms, sides: _Sides, metric: Metric) -> str:
    if arms.refusal:
        return arms.refusal
    for label, rows in ((arms.baseline_label, sides.base), (f"{arms.label}@{arms.nodes}", sides.other)):
        if not rows:
            return f"{label} has no run with a result"
        if all(number(row, metric) is None for row in rows):
            return f"{label} has no number for it"
    batch = comparability.other_batch(sides.base, sides.other, metric)
    return "; ".join([*sides.unlike, *batch, *sides.spoiled])


def _effect(base: Sequence[Row], other: Sequence[Row], metric: Metric) -> Effect | None:
    pairs = [] if metric.quality else _pairs(base, other, metric)
    if pairs:
        return verdicts.paired(pairs)
    return verdicts.unpaired(values(base, metric), values(other, metric))


def _pairs(base: Sequence[Row], other: Sequence[Row], metric: Metric) -> list[tuple[float, float]]:
    """Return the runs that shared an allocation; nothing unless every run has exactly one partner."""
    sides = [{row.pair: number(row, metric) for row in rows if row.pair} for rows in (base, other)]
    if set(sides[0]) != set(sides[1]) or not len(sides[0]) == len(base) == len(other):
        return []
    pairs = [(sides[0][word], sides[1][word]) for word in sorted(sides[0])]
    return [(one, two) for one, two in pairs if one is not None and two is not None]


def _flags(arms: Arms) -> Iterable[str]:
    """Say which runs are not part of it: what survived is compared with what survived."""
    for label, rows in ((arms.baseline_label, arms.baseline), (f"{arms.label}@{arms.nodes}", arms.compared)):
        usable = sum(row.usable for row in rows)
        if rows and usable < asked(rows):
            yield f"{usable} of {plural(asked(rows), 'run')} of {label}"


def _measured(comparison: Comparison, effect: Effect, baseline: Sequence[float]) -> Comparison:
    narrow = effect.interval(1 - 2 * verdicts.ALPHA)
    certain = effect.basis == "deterministic"
    ratio = effect.ratio()
    return replace(
        comparison,
        basis=effect.basis,
        baseline_value=exp(statistics.fmean(math.log(value) for value in baseline)),
        ratio=ratio,
        ratio_low90=None if certain else exp(narrow[0]),
        ratio_high90=None if certain else exp(narrow[1]),
        change_percent=change_percent(ratio, comparison.better),
        p_difference=None if certain else effect.p_difference(),
        p_equivalence=None if certain else effect.p_equivalence(comparison.margin),
    )


def change_percent(ratio: Estimate, better: Better) -> Estimate:
    """Turn a ratio into a percentage that is positive where it is good: 100 (1 - ratio), or 100 (ratio - 1)."""
    sign = 100.0 if better == "higher" else -100.0

    def percent(x: float | None) -> float | None:
        return None if x is None else sign * (x - 1) + 0.0  # + 0.0: no minus before a zero

    low, high = (ratio.low, ratio.high) if better == "higher" else (ratio.high, ratio.low)
    return Estimate(sign * (ratio.value - 1) + 0.0, percent(low), percent(high))


def _judged(draft: _Draft, different: float | None, equivalent: float | None) -> Comparison:
    comparison, effect = draft.comparison, draft.effect
    if effect is None:
        return comparison
    verdict = verdicts.decide(
        effect, comparison.margin, comparison.better, p_difference=different, p_equivalence=equivalent
    )
    more = None if verdict.repeats is None else max(1, verdict.repeats - min(effect.runs))
    certain = effect.basis == "deterministic"
    return replace(
        comparison,
        p_difference_adjusted=None if certain else different,
        p_equivalence_adjusted=None if certain else equivalent,
        verdict=verdict.word,
        strongly=verdict.strongly,
        repeats_needed=verdict.repeats,
        more_repeats=more,
        reason=verdict.reason,
    )
