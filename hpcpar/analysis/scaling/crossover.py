"""Where one strategy overtakes another: between which measured sizes, and whether the runs show it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise

from msgspec import Struct

from hpcpar.analysis.judging import verdicts
from hpcpar.analysis.judging.comparability import disturbed
from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.judging.verdicts import ALPHA, Effect
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.flags import DECLARED
from hpcpar.analysis.scaling.series import Series, TableKey, load, split
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text.numbers import estimate

_DRAWS = 2000
_SEED = 19_880_501


class Crossover(Struct, frozen=True, kw_only=True):
    """The order of two series changes between two measured sizes."""

    key: TableKey
    faster_below: str
    faster_above: str
    below: int
    """Nodes."""
    above: int
    nodes: Estimate | None
    """Where their times are equal, by a straight line in logarithms between the two sizes; never outside them."""
    shown: bool
    """Both sides differ by more than the runs scatter (p < 0.05, adjusted over all sizes and pairs of the table)."""

    @property
    def sentence(self) -> str:
        """Say it, no more than is shown."""
        order = f"{self.faster_below} is faster below, {self.faster_above} above"
        where = f"between {self.below} and {self.above} nodes"
        if not self.shown:
            return (
                f"The order of {self.faster_below} and {self.faster_above} changes {where}, but runs scatter by more."
            )
        return f"{self.faster_below} and {self.faster_above} cross {where}, at {estimate(self.nodes)}: {order}."


def crossovers(tables: Sequence[Table]) -> tuple[Crossover, ...]:
    """Find every change of order between two series of a table, at sizes where both have evidence and equal work."""
    return tuple(found for table in tables if table.key.scaling in DECLARED for found in _of_table(table))


def _of_table(table: Table) -> Iterator[Crossover]:
    pairs = [(one, two, _effects(one, two)) for one, two in combinations(split(table.rows), 2)]
    every = [(place, nodes) for place, (_, _, effects) in enumerate(pairs) for nodes in effects]
    adjusted = dict(zip(every, verdicts.holm([pairs[p][2][n].p_difference() for p, n in every]), strict=True))
    for place, (one, two, effects) in enumerate(pairs):
        settled = [nodes for nodes in sorted(effects) if adjusted[place, nodes] < ALPHA]
        # Sizes at which nothing is settled lie inside the bracket of two that are.
        shown = list(_changes(settled, effects))
        doubtful = [
            (below, above)
            for below, above in _changes(sorted(effects), effects)
            if settled and not any(low <= below and above <= high for low, high in shown)
        ]
        for below, above in [*shown, *doubtful]:
            left, right = effects[below], effects[above]
            first, then = (one, two) if left.delta > 0 else (two, one)
            sure = (below, above) in shown
            yield Crossover(
                key=table.key,
                faster_below=first.label,
                faster_above=then.label,
                below=below,
                above=above,
                nodes=_where(below, above, left, right) if sure else None,
                shown=sure,
            )


def _changes(sizes: Sequence[int], effects: Mapping[int, Effect]) -> Iterator[tuple[int, int]]:
    """Yield the neighbouring sizes between which the sign of the difference changes."""
    for below, above in pairwise(sizes):
        if effects[below].delta * effects[above].delta < 0:
            yield below, above


def _effects(one: Series, two: Series) -> dict[int, Effect]:
    """Compare the step times of two series at every size that both have: the second minus the first."""
    effects = {}
    for nodes in sorted(set(one.rows) & set(two.rows)):
        arms = [series.usable(nodes) for series in (one, two)]
        if not all(arms) or any(map(disturbed, arms)) or load(arms[0][0]) != load(arms[1][0]):
            continue
        effect = verdicts.unpaired(_times(arms[0]), _times(arms[1]))
        if effect is not None and effect.error:
            effects[nodes] = effect
    return effects


def _times(rows: Sequence[Row]) -> list[float]:
    return [row.step_time_s for row in rows if row.step_time_s is not None]


def _where(below: int, above: int, left: Effect, right: Effect) -> Estimate:
    """Interpolate; the interval from draws of both differences, each Student's t about what its runs say."""
    import numpy as np

    draws = np.random.default_rng(_SEED)
    one, two = (side.delta + side.error * draws.standard_t(side.freedom, _DRAWS) for side in (left, right))
    crossing = one * two < 0
    share = np.sort(np.where(crossing, one / np.where(crossing, one - two, 1.0), np.abs(one) < np.abs(two)).clip(0, 1))
    low, high = (share[round(q * (_DRAWS - 1))] for q in (0.025, 0.975))

    def place(fraction: float) -> float:
        return float(f"{below * math.exp(fraction * math.log(above / below)):.10g}")

    return Estimate(place(left.delta / (left.delta - right.delta)), place(float(low)), place(float(high)))
