"""Intervals over runs: the run is the unit of evidence, the logarithm is the scale.

Steps of one run are not independent samples, and runs differ by more than their steps do: an interval over steps would
be far too narrow. Times and rates are ratios in nature, so means and intervals are taken on logarithms.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from msgspec import Struct

LEVEL = 0.95
"""Coverage of every interval of this wing."""
_LARGEST_EXPONENT = 600.0
"""exp() overflows above 709; an interval this wide says only that nothing is known."""


class Estimate(Struct, frozen=True):
    """A value, and its interval where at least two runs stand behind each side of it."""

    value: float
    low: float | None = None
    high: float | None = None

    def times(self, factor: float) -> Estimate:
        """Return the estimate of the same thing in another unit."""
        return Estimate(
            self.value * factor,
            None if self.low is None else self.low * factor,
            None if self.high is None else self.high * factor,
        )


def mean(values: Sequence[float]) -> Estimate:
    """Estimate the geometric mean of one value a run.

    exp(m -+ t s / sqrt(n)), with m and s the mean and standard deviation of the logarithms and t the quantile of
    Student's t with n - 1 degrees of freedom. One value has no interval.
    """
    logs = [math.log(value) for value in values]
    spread = _variance_of_mean(logs)
    return _around(statistics.fmean(logs), spread, len(logs) - 1) if spread is not None else Estimate(values[0])


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Estimate the ratio of two geometric means of unpaired runs: Welch's interval on the difference of logarithms.

    Degrees of freedom after Satterthwaite, v^2 / (v1^2 / (n1 - 1) + v2^2 / (n2 - 1)) with v = v1 + v2 and
    v_i = s_i^2 / n_i (B. L. Welch, Biometrika 34, 1947; F. E. Satterthwaite, Biometrics Bulletin 2, 1946). No interval
    where a side has one run.
    """
    upper = [math.log(value) for value in numerators]
    lower = [math.log(value) for value in denominators]
    centre = statistics.fmean(upper) - statistics.fmean(lower)
    v1, v2 = _variance_of_mean(upper), _variance_of_mean(lower)
    if v1 is None or v2 is None:
        return Estimate(exp(centre))
    total = v1 + v2
    if total == 0:
        return _around(centre, 0.0, 1)
    share = v1 / total  # the same formula, divided through by v^2: tiny variances do not underflow
    freedom = 1 / (share**2 / (len(upper) - 1) + (1 - share) ** 2 / (len(lower) - 1))
    return _around(centre, total, freedom)


def variance(values: Sequence[float]) -> float:
    """Return the sample variance of two values or more.

    Sums are rounded once, so the order of the values changes nothing; statistics.variance is exact instead, by
    fractions, and takes forty times as long.
    """
    centre = statistics.fmean(values)
    return math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1)


def _variance_of_mean(logs: Sequence[float]) -> float | None:
    return variance(logs) / len(logs) if len(logs) > 1 else None


def _around(centre: float, variance: float, freedom: float) -> Estimate:
    from scipy.special import stdtrit  # the quantile alone: scipy.stats would cost a second at start

    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(variance)
    return Estimate(exp(centre), exp(centre - half), exp(centre + half))


def exp(x: float) -> float:
    """Return e^x, rounded to 13 digits and kept inside what a float can hold."""
    value = math.exp(max(-_LARGEST_EXPONENT, min(_LARGEST_EXPONENT, x)))
    return float(f"{value:.13g}")  # what logarithm and exponential leave behind: half the time is a speed-up of 2
