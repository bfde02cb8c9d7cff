"""Intervals: against scipy's own t and Welch procedures, and against what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpcpar.analysis.judging import intervals

TIMES = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=8)
ROUNDED = 1e-11
"""Relative: values are kept to 13 significant digits."""


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_the_mean_is_geometric_with_students_interval_on_logarithms(count):
    values = np.random.default_rng(count).lognormal(size=count)

    got = intervals.mean(list(values))

    logs = np.log(values)
    low, high = stats.t.interval(0.95, count - 1, loc=logs.mean(), scale=stats.sem(logs))
    assert got.value == pytest.approx(stats.gmean(values), rel=ROUNDED)
    assert (got.low, got.high) == pytest.approx((np.exp(low), np.exp(high)), rel=1e-9)


@pytest.mark.parametrize(("upper", "lower"), [(2, 2), (3, 3), (3, 10), (7, 2)])
def test_the_ratio_has_welchs_interval_on_logarithms(upper, lower):
    rng = np.random.default_rng([upper, lower])
    numerators, denominators = rng.lognormal(0.5, 0.3, upper), rng.lognormal(0, 0.1, lower)

    got = intervals.ratio(list(numerators), list(denominators))

    test = stats.ttest_ind(np.log(numerators), np.log(denominators), equal_var=False)
    interval = test.confidence_interval(0.95)
    assert got.value == pytest.approx(stats.gmean(numerators) / stats.gmean(denominators), rel=ROUNDED)
    assert (got.low, got.high) == pytest.approx((np.exp(interval.low), np.exp(interval.high)), rel=1e-9)


def test_welch_by_hand():
    # Logarithms 0, 2 and 0, 0, 3: means 1 and 1; variances 2 and 3, of the means 1 and 1; df = 4 / (1/1 + 1/2) = 8/3.
    got = intervals.ratio([1.0, math.e**2], [1.0, 1.0, math.e**3])

    half = stats.t.ppf(0.975, 8 / 3) * math.sqrt(2)
    assert got.value == pytest.approx(1, rel=ROUNDED)
    assert math.log(got.high) == pytest.approx(half, rel=1e-9)


def test_one_run_has_a_value_and_no_interval():
    assert intervals.mean([0.125]) == intervals.Estimate(0.125)
    assert intervals.ratio([0.5], [0.25]) == intervals.Estimate(2.0)
    assert intervals.ratio([0.5], [0.25, 0.25]) == intervals.Estimate(2.0)


def test_equal_runs_have_an_interval_of_no_width():
    assert intervals.ratio([0.5, 0.5], [0.25, 0.25]) == intervals.Estimate(2.0, 2.0, 2.0)


@pytest.mark.parametrize("runs", [3, 5])
def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says(runs):
    trials, rng = 2000, np.random.default_rng(runs)
    samples = np.exp(0.02 * rng.standard_normal((trials, 2, runs)))

    covered = 0
    for upper, lower in samples:
        got = intervals.ratio(list(upper), list(lower))
        covered += got.low <= 1 <= got.high

    # Binomial: the standard error of the share is sqrt(0.95 x 0.05 / 2000) = 0.005; four of them. Welch's test is
    # slightly conservative at few runs (its true level at 3 is about 3.6 %), hence one half more upwards.
    assert 0.95 - 4 * 0.005 <= covered / trials <= 0.95 + 6 * 0.005


@given(TIMES, TIMES, st.floats(1e-3, 1e3))
def test_the_unit_of_time_changes_no_ratio_and_swapping_mirrors_it(upper, lower, unit):
    got = intervals.ratio(upper, lower)
    scaled = intervals.ratio([unit * t for t in upper], [unit * t for t in lower])
    mirrored = intervals.ratio(lower, upper)

    logs = [math.log(x) for x in (got.low, got.value, got.high)]
    # Rounding to 13 digits moves a logarithm by 5e-13; t quantiles near one degree of freedom multiply what
    # rounding leaves in the variance.
    assert [math.log(x) for x in (scaled.low, scaled.value, scaled.high)] == pytest.approx(logs, rel=1e-6, abs=1e-5)
    assert [-math.log(x) for x in (mirrored.high, mirrored.value, mirrored.low)] == pytest.approx(
        logs, rel=1e-6, abs=1e-5
    )


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=4), st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=4))
def test_whatever_the_spread_the_bounds_are_finite_and_in_order(upper, lower):
    for got in (intervals.mean(upper), intervals.ratio(upper, lower)):
        assert math.isfinite(got.value)
        if got.low is not None:
            assert 0 < got.low <= got.value <= got.high < math.inf
