"""The warm-up rule, on step times of which it is known when they settle."""

import statistics

import numpy as np
import pytest
from test_analysis_window import step, window

from hpcpar.analysis.rows import steady
from hpcpar.analysis.rows.steady import MOST, settled


def times(warm, factor, noise=0.01, count=150, seed=0):
    """Steps that take `factor` times as long for the first `warm` of them, and scatter."""
    scatter = np.exp(noise * np.random.default_rng(seed).standard_normal(count))
    return (np.where(np.arange(count) < warm, factor, 1.0) * scatter).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("warm", "noise"), [(0, 0.01), (5, 0.01), (0, 0.2), (5, 0.2), (0, 0.0)])
def test_ten_steps_are_enough_where_the_time_has_settled_by_then(warm, noise, seed):
    assert settled(times(warm, 5.0, noise, seed=seed), 10) == 10


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("warm", [14, 22, 31, 45])
def test_a_longer_warm_up_is_found(warm, seed):
    cut = settled(times(warm, 1.5, seed=seed), 10)

    # A block may still begin with a few slow steps: its median and its quartiles do not see two of them.
    assert warm - 2 <= cut <= warm


def test_what_falls_slowly_is_cut_until_it_is_flat():
    slow = [1 + 2 * np.exp(-i / 8) for i in range(200)]
    assert 30 <= settled(slow, 10) <= 40  # exp(-33 / 8) x 2 is 3 %


@pytest.mark.parametrize("series", [times(100, 2.0), [1.0 + i / 100 for i in range(200)]])
def test_what_never_settles_says_so(series):
    assert settled(series, 10) is None


def test_a_short_run_is_cut_as_it_was_planned():
    assert settled(times(20, 9.0, count=39), 10) == 10
    assert settled(times(0, 1.0, count=60), 55) == 55


def test_the_window_begins_where_the_time_is_steady():
    series = times(25, 3.0)
    steps = [step(number, time_s) for number, time_s in enumerate(series, 1)]
    whole = {"planned": 150, "reached": 150}

    ruled, declared = window(steps, until_steady=True, **whole), window(steps, **whole)

    assert declared.warmup_cut == 10
    assert 23 <= ruled.warmup_cut <= 25
    assert ruled.steps_used == 150 - ruled.warmup_cut
    assert ruled.mean_s == pytest.approx(np.mean(series[ruled.warmup_cut :]))
    assert not ruled.not_steady


def test_a_window_that_never_settles_loses_the_most_and_says_so():
    steps = [step(number, 1.0 + number / 100) for number in range(1, 201)]

    got = window(steps, until_steady=True, planned=200, reached=200)

    assert (got.warmup_cut, got.not_steady, got.steps_used) == (MOST, True, 150)


def test_after_a_restart_as_much_is_cut_again():
    steps = [step(number, time_s) for number, time_s in enumerate(times(0, 1.0), 1)]

    got = window(steps, until_steady=True, planned=150, reached=150, begins=(1, 101))

    assert (got.warmup_cut, got.steps_used) == (10, 130)


def test_spreads_are_those_of_the_standard_library():
    series = times(20, 2.0, 0.3)
    low, middle, high = zip(
        *(statistics.quantiles(series[i : i + 10], n=4) for i in range(len(series) - 9)), strict=True
    )

    found = steady._rolling_spreads(series)

    assert found == pytest.approx([(h - lo) / m for lo, m, h in zip(low, middle, high, strict=True)], rel=1e-12)
