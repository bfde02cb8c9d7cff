"""The verdicts: the decision table, and by simulation how often they are wrong and how often they see what is there."""

import math

import numpy as np
import pytest
from scipy import signal, stats

from hpcpar.analysis.judging.verdicts import (
    ALPHA,
    MOST_REPEATS,
    Effect,
    Word,
    decide,
    holm,
    paired,
    repeats_needed,
    unpaired,
)

TRIALS = 2000
MARGIN = 0.05


def standard_error(share, trials=TRIALS):
    return math.sqrt(share * (1 - share) / trials)


def simulated_runs(rng, trials, repeats, *, between, phi=0.0, steps=900, step_noise=0.02):
    """Return run means [trials, repeats] of steps that scatter by `step_noise` about a run's own level."""
    shocks = rng.standard_normal((trials * repeats, steps)) * step_noise * math.sqrt(1 - phi**2)
    shocks[:, 0] /= math.sqrt(1 - phi**2)  # stationary from its first step on
    steps_of = signal.lfilter([1.0], [1.0, -phi], shocks, axis=1)
    level = between * rng.standard_normal(trials * repeats)
    return np.exp(level[:, None] + steps_of).mean(axis=1).reshape(trials, repeats)


def words(baseline, compared, better="lower"):
    effects = (unpaired(list(one), list(other)) for one, other in zip(baseline, compared, strict=True))
    return [decide(effect, MARGIN, better).word for effect in effects]


def share(found, *wanted):
    return sum(word in wanted for word in found) / len(found)


@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_two_arms_of_the_same_are_called_different_in_at_most_one_of_twenty_trials(repeats):
    rng = np.random.default_rng(repeats)
    # Batches of 500 trials: memory. Noise of 4 %: a margin of 5 % is no help then.
    arms = [
        np.concatenate(
            [simulated_runs(rng, 500, repeats, between=0.04, phi=0.9, steps=300) for _ in range(TRIALS // 500)]
        )
        for _ in range(2)
    ]
    found = words(*arms)

    improves, deteriorates = share(found, Word.IMPROVES), share(found, Word.DETERIORATES)
    assert improves + deteriorates <= ALPHA + 2 * standard_error(ALPHA)
    # A broken procedure has a favourite: 3 standard errors of a difference of two shares.
    assert abs(improves - deteriorates) <= 3 * math.sqrt((improves + deteriorates) / TRIALS + 1 / TRIALS)


def test_steps_as_evidence_would_call_most_of_them_different():
    """The control of the test above: with the same data the tempting test is wrong most of the time."""
    rng = np.random.default_rng(0)
    level = 0.02 * rng.standard_normal((2, 100, 3, 1))
    steps = (level + 0.02 * rng.standard_normal((2, 100, 3, 300))).reshape(2, 100, 900)
    p = stats.ttest_ind(steps[0], steps[1], axis=1, equal_var=False).pvalue

    assert (p < 0.05).mean() > 0.6


@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_two_quiet_arms_of_the_same_are_found_to_be_the_same(repeats):
    rng = np.random.default_rng(repeats)
    arms = np.exp(0.01 * rng.standard_normal((2, TRIALS, repeats)))

    assert share(words(*arms), Word.NO_CHANGE) >= 0.95


@pytest.mark.parametrize(
    ("noise", "repeats", "gain", "at_least", "at_most"),
    [
        # analysis by simulation, rule R2, margin 5 %: improves at a true gain of ...
        (0.01, 3, 0.08, 0.98, 1.0),
        (0.02, 3, 0.08, 0.87, 0.93),
        (0.02, 5, 0.08, 0.98, 1.0),
        (0.02, 5, 0.02, 0.0, 0.03),
        (0.04, 3, 0.08, 0.34, 0.44),
        (0.04, 5, 0.12, 0.97, 1.0),
    ],
)
def test_a_gain_is_seen_as_often_as_the_noise_allows(noise, repeats, gain, at_least, at_most):
    rng = np.random.default_rng(7)
    baseline, compared = np.exp(noise * rng.standard_normal((2, TRIALS, repeats)))

    seen = share(words(baseline, compared * (1 + gain), better="higher"), Word.IMPROVES)

    slack = 3 * standard_error(0.5 * (at_least + at_most))
    assert at_least - slack <= seen <= at_most + slack


def test_with_much_noise_and_few_runs_no_change_can_hardly_be_shown():
    rng = np.random.default_rng(8)
    found = words(*np.exp(0.04 * rng.standard_normal((2, TRIALS, 3))))

    assert share(found, Word.NO_CHANGE) == pytest.approx(0.05, abs=3 * standard_error(0.05))
    assert share(found, Word.INCONCLUSIVE) > 0.9


def test_the_suggested_repeats_are_enough_in_most_cases():
    """A pilot of three suggests N; with N repeats an effect of nothing is settled."""
    rng = np.random.default_rng(9)
    settled = []
    for _ in range(300):
        pilot = unpaired(*map(list, np.exp(0.03 * rng.standard_normal((2, 3)))))
        verdict = decide(pilot, MARGIN, "lower")
        if verdict.word == Word.INCONCLUSIVE and verdict.repeats is not None:
            again = unpaired(*map(list, np.exp(0.03 * rng.standard_normal((2, verdict.repeats)))))
            settled.append(decide(again, MARGIN, "lower").word != Word.INCONCLUSIVE)

    assert len(settled) > 200
    # 0.8 by design; sigma itself comes from six runs, so some suggestions are too small (and more are too large).
    assert np.mean(settled) == pytest.approx(0.8, abs=0.08)


def test_swapping_the_arms_mirrors_the_verdict():
    rng = np.random.default_rng(10)
    mirror = {Word.IMPROVES: Word.DETERIORATES, Word.DETERIORATES: Word.IMPROVES}
    seen = set()
    for shift in np.linspace(-0.2, 0.2, 41):
        one, other = (list(arm) for arm in np.exp(0.02 * rng.standard_normal((2, 4)) + [[0], [shift]]))
        forth, back = (decide(unpaired(*arms), MARGIN, "lower") for arms in ((one, other), (other, one)))
        assert back.word == mirror.get(forth.word, forth.word)
        assert (back.strongly, back.repeats) == (forth.strongly, forth.repeats)
        assert decide(unpaired(one, other), MARGIN, "higher").word == back.word
        seen.add(forth.word)
    assert seen == {Word.IMPROVES, Word.DETERIORATES, Word.NO_CHANGE, Word.INCONCLUSIVE}


def test_another_unit_changes_nothing():
    rng = np.random.default_rng(11)
    one, other = np.exp(0.02 * rng.standard_normal((2, 5)))
    first, second = (unpaired(list(one * unit), list(1.08 * other * unit)) for unit in (1.0, 1e-6))

    assert second.delta == pytest.approx(first.delta, rel=1e-9)
    assert second.error == pytest.approx(first.error, rel=1e-9)
    assert decide(first, MARGIN, "lower") == decide(second, MARGIN, "lower")


def test_one_run_never_yields_an_effect():
    assert unpaired([1.0], [1.0, 1.1, 1.2]) is None
    assert unpaired([1.0, 1.1, 1.2], [1.0]) is None
    assert unpaired([], []) is None
    assert paired([(1.0, 1.1)]) is None


@pytest.mark.parametrize(
    ("compared", "word"),
    [(100.0, Word.NO_CHANGE), (104.9, Word.NO_CHANGE), (105.1, Word.DETERIORATES), (90.0, Word.IMPROVES)],
)
def test_identical_repeats_are_compared_exactly(compared, word):
    effect = unpaired([100.0] * 3, [compared] * 2)

    assert effect.basis == "deterministic"
    assert effect.ratio().low is None
    assert decide(effect, MARGIN, "lower").word == word


def test_ties_in_one_arm_are_no_obstacle():
    effect = unpaired([1.0, 1.0, 1.0], [1.0, 1.1, 1.2])

    assert effect.basis == "unpaired"
    assert effect.freedom == pytest.approx(2)
    assert decide(effect, MARGIN, "lower").word == Word.INCONCLUSIVE


def test_the_effect_is_that_of_another_implementation():
    rng = np.random.default_rng(12)
    one, other = list(np.exp(0.02 * rng.standard_normal(4))), list(np.exp(0.1 + 0.05 * rng.standard_normal(7)))
    welch = stats.ttest_ind(np.log(other), np.log(one), equal_var=False)

    effect = unpaired(one, other)

    assert effect.p_difference() == pytest.approx(welch.pvalue, rel=1e-9)
    assert effect.freedom == pytest.approx(welch.df, rel=1e-9)
    for level in (0.90, 0.95):
        known = welch.confidence_interval(level)
        assert effect.interval(level) == pytest.approx((known.low, known.high), rel=1e-9)
    bound = math.log1p(MARGIN)
    sides = [
        stats.ttest_ind(np.log(other) - shift, np.log(one), equal_var=False, alternative=way).pvalue
        for shift, way in ((-bound, "greater"), (bound, "less"))
    ]
    assert effect.p_equivalence(MARGIN) == pytest.approx(max(sides), rel=1e-9)
    pairs = list(zip(one, other, strict=False))
    assert paired(pairs).p_difference() == pytest.approx(
        stats.ttest_rel(np.log(other[:4]), np.log(one)).pvalue, rel=1e-9
    )


def test_no_change_is_the_interval_inside_the_margin():
    """TOST at 5 % and the 90 % interval are one decision."""
    rng = np.random.default_rng(13)
    bound = math.log1p(MARGIN)
    for _ in range(200):
        effect = unpaired(*(list(arm) for arm in np.exp(0.03 * rng.standard_normal((2, 5)))))
        low, high = effect.interval(0.90)
        assert (decide(effect, MARGIN, "lower").word == Word.NO_CHANGE) == (-bound < low and high < bound)


def test_pairs_see_what_the_noise_of_nodes_hides():
    rng = np.random.default_rng(14)
    node = 0.02 * rng.standard_normal((TRIALS, 3))
    one, other = (np.exp(node + 0.005 * rng.standard_normal((TRIALS, 3)) + shift) for shift in (0.0, 0.03))
    widths = [
        np.median([math.exp(np.diff(effect.interval(0.95))[0] / 2) - 1 for effect in effects])
        for effects in (
            [paired(list(zip(a, b, strict=True))) for a, b in zip(one, other, strict=True)],
            [unpaired(list(a), list(b)) for a, b in zip(one, other, strict=True)],
        )
    ]
    # The paired one is 4.30 x 0.005 x sqrt(2 / 3) x 0.83 (median of s).
    assert widths[0] == pytest.approx(0.0146, rel=0.05)
    assert widths[1] > 2.5 * widths[0]


def test_repeats_follow_the_formula():
    effect = Effect(delta=0.0, error=0.04, freedom=4, spread=0.05, basis="unpaired", runs=(3, 3))
    bound = math.log1p(MARGIN)

    count = repeats_needed(effect, MARGIN)

    def quantiles(freedom):
        return stats.t.ppf(0.95, freedom) + stats.t.ppf(0.9, freedom)

    assert count == math.ceil(2 * (quantiles(2 * (count - 1)) * 0.05 / bound) ** 2)
    alone = repeats_needed(Effect(delta=0.0, error=0.04, freedom=2, spread=0.05, basis="paired", runs=(3, 3)), MARGIN)
    assert alone == math.ceil((quantiles(alone - 1) * 0.05 / bound) ** 2)


def test_where_the_formula_is_met_already_the_distance_to_the_margin_counts():
    near = Effect(delta=math.log1p(MARGIN) * 0.9, error=0.005, freedom=38, spread=0.02, basis="unpaired", runs=(20, 20))
    verdict = decide(near, MARGIN, "lower")

    assert verdict.word == Word.INCONCLUSIVE
    assert verdict.repeats > 20
    at_the_margin = Effect(
        delta=math.log1p(MARGIN), error=0.005, freedom=38, spread=0.02, basis="unpaired", runs=(20, 20)
    )
    assert decide(at_the_margin, MARGIN, "lower").repeats is None
    assert verdict.repeats <= MOST_REPEATS


def test_strongly_means_the_whole_interval_beyond_the_margin():
    def verdict(delta):
        effect = Effect(delta=delta, error=0.01, freedom=8, spread=0.02, basis="unpaired", runs=(5, 5))
        return decide(effect, MARGIN, "lower")

    assert (verdict(-0.06).word, verdict(-0.06).strongly) == (Word.IMPROVES, False)
    assert (verdict(-0.09).word, verdict(-0.09).strongly) == (Word.IMPROVES, True)
    assert (verdict(0.09).word, verdict(0.09).strongly) == (Word.DETERIORATES, True)


def test_a_difference_within_the_margin_is_no_improvement_however_certain():
    effect = Effect(delta=-0.04, error=0.006, freedom=50, spread=0.02, basis="unpaired", runs=(30, 30))
    verdict = decide(effect, MARGIN, "lower")

    assert effect.p_difference() < 1e-6
    assert verdict.word == Word.INCONCLUSIVE
    assert verdict.reason == ("a difference is likely, but it is not shown to be within the margin, nor is it beyond")


def test_holm_is_holm():
    # S. Holm 1979: the smallest times m, the next times m - 1, ..., never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_a_table_of_twenty_nothings_quiet():
    rng = np.random.default_rng(15)
    p = rng.uniform(size=(TRIALS, 20))
    wrong = np.mean([min(holm(list(row))) < ALPHA for row in p])

    assert (p < ALPHA).any(axis=1).mean() > 0.6  # without it, most tables would have a false call
    assert wrong <= ALPHA + 3 * standard_error(ALPHA)


def test_a_verdict_that_only_the_adjustment_takes_away_says_so_and_asks_for_enough():
    effect = Effect(delta=-0.08, error=0.02, freedom=4, spread=0.0245, basis="unpaired", runs=(3, 3))
    alone = decide(effect, MARGIN, "lower")
    among = decide(effect, MARGIN, "lower", p_difference=20 * effect.p_difference(), p_equivalence=1.0)

    assert alone.word == Word.IMPROVES
    assert among.word == Word.INCONCLUSIVE
    assert among.reason == "it would be settled alone, but not among the comparisons of this table (Holm)"
    assert among.repeats > 5
