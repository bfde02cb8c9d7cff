"""Laws: textbook and published values, truths inside the intervals as often as promised, and when there is no law."""

import math
from dataclasses import replace

import numpy as np
import pytest
from records_oracle import Oracle, Truth
from scipy.optimize import curve_fit, nnls

from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.rows.gather import gather
from hpcpar.analysis.scaling import laws as module
from hpcpar.analysis.scaling.fitting import Points, fit, solve
from hpcpar.analysis.scaling.laws import AMDAHL, TARGET, USL, laws, why_not
from hpcpar.analysis.scaling.table import build, karp_flatt

SIZES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


def noisy(rng, form, truth, repeats, noise=0.02):
    exact = form.terms(np.array(SIZES)) @ np.array(truth)
    return Points(SIZES, tuple(tuple(value * np.exp(noise * rng.standard_normal(repeats))) for value in exact))


# ---------------------------------------------------------------- textbook


@pytest.mark.parametrize(
    ("speedups", "fractions"),
    [
        # M. J. Quinn, Parallel Programming in C with MPI and OpenMP, 2003, section 7.5: a serial part of 10 % ...
        ([1.82, 2.50, 3.08, 3.57, 4.00, 4.38, 4.71], [0.1] * 7),
        # ... and an overhead that grows.
        ([1.87, 2.61, 3.23, 3.73, 4.14, 4.46, 4.71], [0.070, 0.075, 0.080, 0.085, 0.090, 0.095, 0.100]),
    ],
)
def test_karp_and_flatts_fraction_of_a_textbook(speedups, fractions):
    found = [karp_flatt(Estimate(s), p).value for p, s in enumerate(speedups, start=2)]

    assert found == pytest.approx(fractions, abs=0.0015)  # speed-ups are printed with two decimals


def test_the_interval_of_karp_and_flatt_is_that_of_the_speed_up_turned_round():
    found = karp_flatt(Estimate(3.0, 2.5, 3.5), 4)

    assert found.value == pytest.approx((1 / 3 - 1 / 4) / (3 / 4))
    assert found.low == karp_flatt(Estimate(3.5), 4).value
    assert found.high == karp_flatt(Estimate(2.5), 4).value
    assert karp_flatt(Estimate(1.0), 1.0) is None
    assert karp_flatt(None, 4) is None


SDM91 = ((1, 18, 36, 72, 108, 144, 216), (64.9, 995.9, 1652.4, 1853.2, 1828.9, 1775.0, 1702.2))
"""SPEC SDM91 of a Sun SPARCcenter 2000: load and throughput (N. Gunther, Guerrilla Capacity Planning, 2007)."""


def universal(n, contention, coherency, throughput):
    return throughput * n / (1 + contention * (n - 1) + coherency * n * (n - 1))


def test_the_usl_of_published_measurements():
    load, throughput = map(np.array, SDM91)
    # What the R package usl publishes for these data: 0.0277285, 0.0001044 (least squares of absolute errors).
    known, _ = curve_fit(universal, load, throughput, p0=(0.01, 1e-4, 65))
    assert known[:2] == pytest.approx([0.0277285, 0.0001044], rel=5e-4)
    # hpcpar's errors are relative; another solver, on logarithms, agrees as far as relative errors are logarithms.
    wanted, _ = curve_fit(
        lambda n, *p: np.log(universal(n, *p)), load, np.log(throughput), p0=(0.01, 1e-4, 65), bounds=(0, np.inf)
    )

    coefficients = solve(USL.terms(load.astype(float)), np.log(load / throughput)[None], np.ones(len(load)))[0]

    found = [USL.parameters[name](coefficients) for name in ("contention", "coherency", "throughput_at_1")]
    # Their largest residual is 17 %: relative errors and logarithms differ by half its square.
    assert found == pytest.approx(list(wanted), rel=0.15)


@pytest.mark.parametrize("form", [AMDAHL, module.GUSTAFSON, USL, TARGET], ids=lambda form: form.name)
def test_exact_measurements_give_the_exact_law(form):
    truth = [0.9, 0.05, 0.003][: len(form.terms(np.array([1.0])).T)]
    exact = form.terms(np.array(SIZES)) @ np.array(truth)

    found = solve(form.terms(np.array(SIZES)), np.log(exact)[None], np.full(len(SIZES), 5))[0]

    assert found == pytest.approx(truth, rel=1e-9)


def test_the_solver_is_non_negative_least_squares():
    rng = np.random.default_rng(0)
    terms = USL.terms(np.array(SIZES))
    logs = np.log(rng.uniform(0.5, 2, size=(200, len(SIZES))))
    weights = np.array([1, 2, 3, 4, 5, 6])

    found = solve(terms, logs, weights)

    for one, coefficients in zip(logs, found, strict=True):
        scale = np.sqrt(weights) * np.exp(-one)
        assert coefficients == pytest.approx(nnls(scale[:, None] * terms, np.sqrt(weights))[0], rel=1e-6, abs=1e-9)
    assert (found == 0).any(axis=0).sum() >= 2, "the bounds were met"


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("form", "truth", "repeats"),
    [
        (AMDAHL, (0.1, 0.9), 3),
        (AMDAHL, (0.1, 0.9), 5),
        (USL, (1.0, 0.05, 0.005), 3),
        (USL, (1.0, 0.05, 0.005), 5),
        (TARGET, (1.0, 0.3), 4),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_intervals_hold_the_truth_as_often_as_they_say(form, truth, repeats, monkeypatch):
    monkeypatch.setattr("hpcpar.analysis.scaling.fitting.RESAMPLES", 500)
    rng, trials = np.random.default_rng(1), 200
    hits = dict.fromkeys(form.parameters, 0)
    for _ in range(trials):
        found = fit(noisy(rng, form, truth, repeats), form.terms)
        for name, formula in form.parameters.items():
            known = found.derive(formula)
            hits[name] += known.low <= formula(np.array(truth)) <= known.high

    slack = 3 * math.sqrt(0.95 * 0.05 / trials)
    for name, count in hits.items():
        assert count / trials == pytest.approx(0.95, abs=slack), name


def test_a_law_that_is_the_wrong_one_says_so():
    rng = np.random.default_rng(2)
    grows = noisy(rng, USL, (1.0, 0.05, 0.02), 5)  # r / X of a machine whose communication grows
    times = Points(SIZES, tuple(tuple(y / r for y in runs) for r, runs in zip(SIZES, grows.values, strict=True)))

    assert fit(times, AMDAHL.terms).misfit_p < 1e-6
    assert fit(grows, USL.terms).misfit_p > 0.01


# ---------------------------------------------------------------- from run folders


def folder_laws(tmp_path, target=0.75, **changes):
    oracle = Oracle(
        truths={"ddp": Truth(0.010, 0.0020)}, nodes=(1, 2, 4, 6, 8, 12), repeats=5, noise=0.01, ranks_per_node=1
    )
    oracle = replace(oracle, **changes)
    oracle.write(tmp_path)
    return {law.law: law for law in laws(build(gather([tmp_path]).rows), target)}


def test_the_known_serial_part_is_found_and_how_far_it_lets_one_go(tmp_path):
    law = folder_laws(tmp_path)["Amdahl"]

    share = 0.010 / (0.010 + 0.0020 * 64)
    assert (law.sizes, law.runs, law.reason, law.misfit) == (6, 30, "", False)
    assert law.parameters["serial_share"].low <= share <= law.parameters["serial_share"].high
    nodes = law.parameters["nodes_at_target"]
    assert nodes.low <= 1 + (1 / 0.75 - 1) / share <= nodes.high
    assert [r for r, _ in law.residuals] == [1, 2, 4, 6, 8, 12]


def test_weak_scaling_has_gustafsons_law(tmp_path):
    found = folder_laws(tmp_path, scaling="weak")

    assert set(found) == {"Gustafson", "USL"}
    # The serial time here does not shrink, nor does the load of a rank: throughput grows as the ranks do.
    assert found["Gustafson"].parameters["serial_share"].value == pytest.approx(0, abs=0.01)


def test_no_law_is_followed_beyond_twice_what_was_measured(tmp_path):
    found = folder_laws(tmp_path, truths={"ddp": Truth(0.0001, 0.0020)})["Amdahl"]

    assert "nodes_at_target" not in found.parameters
    assert found.notes == (
        "nodes_at_target is beyond 2 times the largest measured size, where the law is not followed",
    )


@pytest.mark.parametrize(
    ("changes", "amdahl", "usl"),
    [
        (
            {"nodes": (1, 2, 4)},
            "not enough points: 3 sizes with evidence, 4 are the least",
            "not enough points: 3 sizes with evidence, 6 are the least",
        ),
        (
            {"repeats": 1},
            "one piece of evidence a size gives no interval, and without one there is no fit",
            "one piece of evidence a size gives no interval, and without one there is no fit",
        ),
        (
            {"oversubscribed_from": 8},
            "",
            "not enough points: 4 sizes with evidence, 6 are the least",
        ),
        (
            {"oversubscribed_from": 1},
            "not enough points: 0 sizes with evidence, 4 are the least",
            "not enough points: 0 sizes with evidence, 6 are the least",
        ),
    ],
    ids=["three sizes", "one repeat", "two sizes spoiled", "all spoiled"],
)
def test_where_there_is_not_enough_there_is_no_law(tmp_path, changes, amdahl, usl):
    found = folder_laws(tmp_path, **changes)

    assert (found["Amdahl"].reason, found["USL"].reason) == (amdahl, usl)
    assert found["USL"].parameters == {}


def test_the_same_runs_give_the_same_interval():
    points = noisy(np.random.default_rng(3), AMDAHL, (0.1, 0.9), 3)

    one, two = (fit(points, AMDAHL.terms).derive(AMDAHL.parameters["serial_share"]) for _ in range(2))

    assert one == two


def test_a_size_with_one_run_still_counts_where_others_have_several():
    points = noisy(np.random.default_rng(4), AMDAHL, (0.1, 0.9), 3)
    points = Points(points.places, (points.values[0][:1], *points.values[1:]))

    found = fit(points, AMDAHL.terms)

    assert why_not(points, 4) == ""
    assert found.freedom == 16 - 6
    assert found.derive(AMDAHL.parameters["serial_share"]).value == pytest.approx(0.1, abs=0.02)


def test_identical_runs_give_an_interval_of_no_width():
    exact = AMDAHL.terms(np.array(SIZES)) @ np.array([0.25, 0.75])
    found = fit(Points(SIZES, tuple((value,) * 3 for value in exact)), AMDAHL.terms)

    share = found.derive(AMDAHL.parameters["serial_share"])
    assert (share.value, share.low, share.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.misfit_p is None
