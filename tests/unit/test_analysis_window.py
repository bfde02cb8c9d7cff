"""The window: which steps count, and when there is no time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.analysis.rows.window import LONGEST_S, SHORTEST_S, measure
from hpcpar.records import Step


def step(number, time_s=1.0, **rest):
    return Step(step=number, time_s=time_s, time_min_s=time_s, time_mean_s=time_s, slowest=0, **rest)


def whole(count=20, **rest):
    return [step(number, float(number), loss=1.0 / number, **rest) for number in range(1, count + 1)]


def window(steps, planned=20, warmup=10, reached=20, rejected_lines=0, **options):
    return measure(steps, planned=planned, warmup=warmup, reached=reached, rejected_lines=rejected_lines, **options)


def test_the_time_is_the_mean_after_the_warm_up_and_the_median_beside_it():
    got = window(whole())

    # Steps 11 .. 20 take 11 .. 20 s: (11 + 20) / 2, both.
    assert (got.mean_s, got.p50_s, got.steps_measured, got.steps_used) == (15.5, 15.5, 20, 10)
    assert got.loss_last == 1 / 20
    assert got.reason == ""


def test_work_over_the_mean_time_is_total_work_over_total_time():
    times = [1.0, 3.0]  # one sample in 1 s, one in 3 s: 2 samples in 4 s; the mean of the rates would be 2/3
    got = window([step(1, times[0]), step(2, times[1])], planned=2, warmup=0, reached=2)

    assert 1 / got.mean_s == len(times) / sum(times)


def test_of_two_lines_of_a_step_the_later_one_counts():
    got = window([*whole(), step(15, 115.0)])

    assert got.duplicate_steps == 1
    assert got.mean_s == pytest.approx(15.5 + 100 / 10)  # one of ten steps is 100 s longer


@pytest.mark.parametrize("time_s", [0.0, -1.0, SHORTEST_S / 2, LONGEST_S * 2, math.inf, math.nan])
def test_an_impossible_time_is_rejected_and_counted(time_s):
    got = window([s if s.step != 15 else step(15, time_s) for s in whole()])

    assert (got.rejected_steps, got.steps_measured) == (1, 19)
    assert got.mean_s == pytest.approx((155 - 15) / 9)


@pytest.mark.parametrize("number", [0, -1, 21, 10**30])
def test_a_step_number_that_was_never_planned_is_rejected(number):
    got = window([*whole(), step(number, 1.0)])

    assert (got.rejected_steps, got.mean_s) == (1, 15.5)


def test_a_run_that_stopped_early_has_no_time_and_says_so():
    got = window(whole()[:15], reached=0)

    assert (got.mean_s, got.p50_s) == (None, None)
    assert got.reason == "15 of 20 steps were recorded"


def test_a_gap_that_nothing_explains_costs_the_time():
    got = window([s for s in whole() if s.step != 15])

    assert got.mean_s is None
    assert got.reason == "19 of 20 steps were recorded"


def test_a_gap_that_a_damaged_line_explains_costs_one_step():
    got = window([s for s in whole() if s.step != 15], rejected_lines=1)

    assert got.mean_s == pytest.approx((155 - 15) / 9)
    assert got.reason == ""


def test_a_damaged_line_explains_nothing_where_the_run_did_not_reach_its_end():
    assert window([s for s in whole() if s.step != 15], reached=0, rejected_lines=1).mean_s is None


def test_a_window_that_lost_more_than_a_tenth_to_damage_has_no_time():
    got = window(whole()[:-2], rejected_lines=2)

    assert got.mean_s is None
    assert got.reason == "2 of the window's 10 steps could not be read"


@pytest.mark.parametrize("warmup", [20, 25])
def test_a_warm_up_cut_that_leaves_nothing_says_so(warmup):
    got = window(whole(), warmup=warmup)

    assert got.mean_s is None
    assert str(warmup) in got.reason


def test_no_steps_at_all():
    assert window([]).reason == "no step was recorded"


def test_waiting_for_data_and_skipped_updates_are_kept_apart_from_the_time():
    got = window(whole(data_s=0.5, applied=False))

    assert (got.mean_s, got.data_wait_s, got.skipped_updates) == (15.5, 0.5, 10)


@given(
    st.lists(st.tuples(st.integers(-3, 25), st.floats(allow_nan=True, allow_infinity=True)), max_size=60),
    st.integers(1, 22),
    st.integers(0, 22),
    st.integers(0, 30),
    st.integers(0, 10),
)
def test_every_line_is_either_used_or_counted(pairs, planned, warmup, reached, rejected_lines):
    got = measure(
        [step(number, time_s) for number, time_s in pairs],
        planned=planned,
        warmup=warmup,
        reached=reached,
        rejected_lines=rejected_lines,
    )

    assert got.steps_measured + got.duplicate_steps + got.rejected_steps == len(pairs)
    assert (got.mean_s is None) == bool(got.reason)
    if got.mean_s is not None:
        assert SHORTEST_S <= got.mean_s <= LONGEST_S


def long(times, **options):
    steps = [step(number, float(time_s), loss=1.0) for number, time_s in enumerate(times, start=1)]
    return window(steps, planned=len(steps), warmup=0, reached=len(steps), **options)


def test_a_window_that_drifts_has_a_trend_and_a_noisy_one_has_none():
    rng = np.random.default_rng(0)
    noise = np.exp(0.05 * rng.standard_normal((200, 400)))
    drift = np.exp(np.linspace(0, 0.1, 400))

    steady = [long(one).trend for one in noise]
    drifting = [long(one * drift).trend for one in noise]

    assert sum(trend is not None for trend in steady) <= 2 + 3 * math.sqrt(2)  # p < 0.01 in 200 windows
    assert all(trend is not None for trend in drifting)
    # From the middle of the first tenth to that of the last: 0.9 of the way.
    assert np.mean(drifting) == pytest.approx(math.expm1(0.09), rel=0.05)


def test_stalls_are_no_trend_and_short_windows_have_none():
    times = np.ones(400)
    times[[350, 370, 390]] = 30.0

    assert long(times).trend is None
    assert long(np.linspace(1, 2, 39)).trend is None
    assert long(np.linspace(1, 2, 40)).trend == pytest.approx(0.9, rel=0.1)


def learning(losses):
    return [step(number, 2.0, loss=loss) for number, loss in enumerate(losses, start=1)]


def test_a_target_is_reached_when_the_mean_of_ten_losses_is_there():
    losses = [1.0] * 10 + [0.1] + [1.0] * 4 + [0.4] * 15  # one lucky batch reaches nothing

    got = window(learning(losses), planned=30, warmup=10, reached=30, target_loss=0.5)

    # Steps 16 and on: the mean of the last ten is (10 - k) x 1 + k x 0.4, the lucky 0.1 among them until step 20.
    means = [sum(losses[max(0, n - 10) : n]) / 10 for n in range(1, 31)]
    first = next(n for n in range(10, 31) if means[n - 1] <= 0.5)
    assert got.reached == (first, 2.0 * first)
    assert first > 20


def test_a_target_that_is_not_reached_or_lies_behind_a_divergence_is_none():
    assert window(learning([1.0] * 30), planned=30, reached=30, target_loss=0.5).reached is None
    assert window(learning([1.0] * 30), planned=30, reached=30).reached is None
    assert window(learning([1.0, None, *[0.1] * 28]), planned=30, reached=30, target_loss=0.5).reached is None
    # The tenth loss is the first of which there is a mean.
    assert window(learning([0.1] * 30), planned=30, reached=30, target_loss=0.5).reached == (10, 20.0)


def test_every_attempt_has_a_warm_up_of_its_own():
    steps = [step(number, 100.0 if number in (1, 2, 13, 14) else 1.0) for number in range(1, 21)]
    got = measure(steps, planned=20, warmup=2, reached=20, rejected_lines=0, begins=(1, 13))

    assert (got.mean_s, got.steps_used, got.reason) == (1.0, 16, "")


def test_warm_ups_that_leave_nothing_say_so():
    got = measure(whole(), planned=20, warmup=10, reached=20, rejected_lines=0, begins=(1, 11))

    assert got.reason == "the warm-up cut of 20 steps leaves nothing of 20 planned steps"


def test_begins_that_cannot_be_are_no_begins():
    got = measure(whole(), planned=20, warmup=10, reached=20, rejected_lines=0, begins=(-5, 10**30, 1))

    assert got.mean_s == 15.5
