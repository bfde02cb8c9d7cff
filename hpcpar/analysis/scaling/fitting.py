"""Laws that are linear in positive coefficients, fitted to runs: relative errors, and intervals by resampling runs.

Amdahl's, Gustafson's and the universal scalability law, and samples to a target, are all sums of known terms with
coefficients that cannot be negative. So a fit is a non-negative least squares, with one minimum and no start value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from hpcpar.analysis.judging.intervals import LEVEL, Estimate

if TYPE_CHECKING:
    pass

RESAMPLES = 2000
_SEED = 20_030_501
"""Any: the same runs must give the same bytes."""
_IDENTICAL = 1e-12
MISFIT = 0.01
"""p of the test for lack of fit below which a law is said not to describe the measurements."""


class Points(NamedTuple):
    """What is fitted: at each place of the abscissa, one number a run."""

    places: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    @property
    def runs(self) -> int:
        """Runs in all."""
        return sum(map(len, self.values))


class Fit(NamedTuple):
    """Coefficients of the terms, and what resampled runs gave."""

    coefficients: Any
    """numpy [terms]."""
    resampled: Any
    """numpy [RESAMPLES, terms]."""
    residuals: tuple[float, ...]
    """Measured over fitted, minus 1, at each place: their pattern says more than one number does."""
    misfit_p: float | None
    """p of "the law describes the means"; None where there is no freedom left to test it."""
    freedom: int
    """Runs minus places: what the spread between runs was estimated with."""

    def derive(self, formula: Callable[[Any], Any]) -> Estimate:
        """Estimate what a formula makes of the coefficients, with the interval of the resampled ones.

        The percentiles are moved outwards as Student's t is wider than the normal distribution (T. Hesterberg, The
        American Statistician 69(4), 2015): plain percentiles are too narrow for the few runs that there are.
        """
        import numpy as np
        from scipy.special import ndtr, stdtrit

        outer = float(ndtr(-stdtrit(self.freedom, (1 + LEVEL) / 2)))
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(formula(self.coefficients))
            found = np.sort(formula(self.resampled.T))
        low, high = (found[round(q * (len(found) - 1))] for q in (outer, 1 - outer))
        return Estimate(_rounded(value), _rounded(float(low)), _rounded(float(high)))


def _rounded(x: float) -> float:
    return float(f"{x:.10g}")  # the last digits are those of one linear algebra library, and another has others


def fit(points: Points, terms: Callable[[Any], Any]) -> Fit:
    """Fit values ~ sum_k c_k terms_k(place) with c_k >= 0.

    Least squares of the relative error of each place's geometric mean, weighted by its runs. Resampling: the residuals
    of the runs' logarithms about their own place's mean, widened by sqrt(n / (n - 1)), are pooled, drawn again with
    replacement, and added to the means; so the spread between runs counts, and the law's own misfit does not.

    Args:
        points: at least as many places as terms, and at least one place with two runs.
        terms: places [P] -> [P, terms].
    """
    import numpy as np

    counts = np.array([len(runs) for runs in points.values])
    logs = [np.log(runs) for runs in points.values]
    means = np.array([one.mean() for one in logs])
    pool = np.concatenate([(one - one.mean()) * math.sqrt(len(one) / (len(one) - 1)) for one in logs if len(one) > 1])
    columns = terms(np.asarray(points.places, dtype=float))
    chosen = np.random.default_rng(_SEED).integers(len(pool), size=(RESAMPLES, int(counts.sum())))
    edges = np.concatenate([[0], np.cumsum(counts)[:-1]])
    drawn = means + np.add.reduceat(pool[chosen], edges, axis=1) / counts
    coefficients = solve(columns, means[None], counts)[0]
    residuals = np.exp(means) / (columns @ coefficients) - 1
    return Fit(
        coefficients=coefficients,
        resampled=solve(columns, drawn, counts),
        residuals=tuple(_rounded(float(x)) for x in residuals),
        misfit_p=_misfit(logs, np.log1p(residuals), counts, columns.shape[1]),
        freedom=int(counts.sum()) - len(counts),
    )


def solve(columns: Any, logs: Any, counts: Any) -> Any:
    """Solve B non-negative least squares of the relative error.

    Every choice of terms that may be zero is solved, and the best one without a negative coefficient taken: exact, and
    for two or three terms faster than a solver that is called B times.

    Args:
        columns: the terms at each place [P, terms].
        logs: logarithms of what is fitted [B, P].
        counts: weights [P].

    Returns:
        Coefficients [B, terms].
    """
    import numpy as np

    designs = (np.sqrt(counts) * np.exp(-logs))[:, :, None] * columns
    wanted = np.sqrt(counts)
    # Columns of very different size would make the normal equations ill-conditioned.
    size = np.linalg.norm(designs, axis=1)
    designs = designs / size[:, None]
    best = np.zeros_like(size)
    least = np.full(len(size), np.inf)
    terms = range(designs.shape[2])
    for chosen in (list(some) for count in terms for some in combinations(terms, count + 1)):
        part = designs[:, :, chosen]
        normal = np.swapaxes(part, 1, 2)
        found = np.linalg.solve(normal @ part, (normal @ wanted)[:, :, None])[:, :, 0]
        error = ((np.einsum("bpt,bt->bp", part, found) - wanted) ** 2).sum(axis=1)
        better = (found >= 0).all(axis=1) & (error < least)
        least[better] = error[better]
        best[better] = 0.0
        best[np.ix_(better, chosen)] = found[better]
    return best / size


def _misfit(logs: Sequence[Any], deviations: Any, counts: Any, terms: int) -> float | None:
    """Test the deviations of the means from the law against the spread between runs (F test for lack of fit)."""
    from scipy.special import fdtrc

    places, runs = len(counts), int(counts.sum())
    within = float(sum(((one - one.mean()) ** 2).sum() for one in logs))
    if places <= terms or runs <= places:
        return None
    between = float((counts * deviations**2).sum())
    if within <= runs * _IDENTICAL**2:
        return None  # runs that repeat each other to the last bits say nothing of their scatter
    f = between / (places - terms) / (within / (runs - places))
    return _rounded(float(fdtrc(places - terms, runs - places, f)))
