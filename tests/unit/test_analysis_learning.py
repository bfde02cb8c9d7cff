"""The noise scale of gradients of which it is known, and efficiency against a reference batch."""

import math

import msgspec
import numpy as np
import pytest
from records_oracle import Oracle, Truth, change_record

from hpcpar.analysis.rows.diagnosed import columns, noise_of
from hpcpar.analysis.rows.gather import gather
from hpcpar.analysis.rows.learning import with_reference
from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.records import Diagnosis

ORACLE = Oracle(truths={"ddp": Truth(0.01, 0.002)})


def diagnosis(**fields):
    seen = {"wall_s": 2.0, "communication_s": 0.8, "exposed_s": 0.2, "compute_s": 1.5}
    return Diagnosis(**{"after_step": 10, "profiled_steps": 5, **seen, **fields})


def random_squares(small, large, steps, *, length=2.0, noise=5.0, size=400, seed=0):
    """Mean squared lengths of gradients of `small` and of `large` samples: one true gradient, and independent noise.

    Its squared length is length^2, the trace of the covariance of a sample noise^2: the noise scale is their ratio.
    """
    random = np.random.default_rng(seed)
    true = np.full(size, length / math.sqrt(size))
    pairs = []
    for _ in range(steps):
        gradients = true + random.normal(0, noise / math.sqrt(size * small), (large // small, size))
        pairs.append((float((gradients**2).sum(1).mean()), float((gradients.mean(0) ** 2).sum())))
    return pairs


def test_the_noise_scale_is_found_again_within_its_error():
    found = [noise_of(diagnosis(small_batch=2, squares=random_squares(2, 32, 40, seed=seed)), 32) for seed in range(20)]
    truth = 25 / 4
    off = [(one.scale - truth) / one.error for one in found]
    assert abs(np.mean([one.scale for one in found]) - truth) < 0.1
    assert sum(abs(one) < 2 for one in off) >= 16
    assert max(map(abs, off)) < 4


@pytest.mark.parametrize(
    "fields",
    [
        {"small_batch": 0, "squares": []},
        {"small_batch": 2, "squares": [(1.0, 0.5)] * 2},
        {"small_batch": 32, "squares": [(1.0, 0.5)] * 5},
        {"small_batch": 2, "squares": [(1.0, 1.0)] * 5},
        {"small_batch": 2, "squares": [(1.0, 0.01)] * 5},
        {"small_batch": 2, "squares": [(math.nan, 0.5)] * 5},
    ],
    ids=["none", "too few", "no larger batch", "no noise", "nothing but noise", "no number"],
)
def test_what_gives_no_positive_estimate_has_no_noise_scale(fields):
    assert noise_of(diagnosis(**fields), 32) is None


def test_exposed_communication_and_overlap():
    found = columns(diagnosis(), 32)
    assert (found["communication_s"], found["exposed_communication_s"]) == (0.8, 0.2)
    assert (found["overlap"], found["compute_share"]) == pytest.approx((0.75, 0.75))
    assert columns(diagnosis(communication_s=0.0, exposed_s=0.0), 32)["overlap"] is None


@pytest.mark.parametrize("fields", [{"exposed_s": 0.9}, {"communication_s": 3.0}, {"exposed_s": math.nan}])
def test_damaged_seconds_are_no_columns(fields):
    assert columns(diagnosis(**fields), 32) == {}


def test_a_record_without_them_has_none_of_it(tmp_path):
    row = reduce_run(ORACLE.write_run(tmp_path, "ddp", 2, 1))
    names = ("communication_s", "overlap", "noise_scale", "goodput_pollux", "device_utilisation", "reference_batch")
    assert [getattr(row, name) for name in names] == [None] * 6


def test_a_batch_is_held_against_the_smallest_of_its_study(tmp_path):
    run = ORACLE.write_run(tmp_path, "ddp", 2, 1)
    squares = [[2.0, 1.5]] * 3
    change_record(run, diagnosis={**msgspec.to_builtins(diagnosis(small_batch=1)), "squares": squares})
    [row] = gather([tmp_path]).rows
    batch = row.global_batch
    noise, signal = 0.5 / (1 - 1 / batch), (batch * 1.5 - 2.0) / (batch - 1)
    assert row.noise_scale == pytest.approx(noise / signal)
    assert (row.reference_batch, row.statistical_efficiency_estimate) == (batch, 1.0)
    assert row.goodput_pollux == row.samples_per_s

    large = msgspec.structs.replace(row, run="other", global_batch=4 * batch)
    alone = msgspec.structs.replace(row, run="third", study="another", global_batch=4 * batch)
    _, against, unmoved = with_reference([row, large, alone])
    expected = (row.noise_scale + batch) / (row.noise_scale + 4 * batch)
    assert against.statistical_efficiency_estimate == pytest.approx(expected)
    assert against.goodput_pollux == pytest.approx(expected * row.samples_per_s)
    assert unmoved.statistical_efficiency_estimate == 1.0


def test_samples_to_the_target_measure_the_same(tmp_path):
    row = reduce_run(ORACLE.write_run(tmp_path, "ddp", 2, 1))
    small = [msgspec.structs.replace(row, run=str(i), samples_to_target=100.0 + 20 * i) for i in range(3)]
    large = msgspec.structs.replace(row, run="9", global_batch=2 * row.global_batch, samples_to_target=160.0)
    *_, found = with_reference([*small, large])
    assert found.statistical_efficiency == pytest.approx(120 / 160)
    assert found.reference_batch == row.global_batch


def test_utilisation_and_rates_of_a_rank(tmp_path):
    run = ORACLE.write_run(tmp_path, "ddp", 2, 1)
    ranks = msgspec.to_builtins(run.record().ranks)
    change_record(run, ranks=[{**rank, "device_utilisation": 0.2 * rank["rank"]} for rank in ranks])
    row = reduce_run(run)
    assert row.device_utilisation == pytest.approx(0.3)
    assert row.samples_per_s_per_rank == pytest.approx(row.samples_per_s / 4)
    change_record(run, ranks=[{**rank, "device_utilisation": 0.5 if rank["rank"] else None} for rank in ranks])
    assert reduce_run(run).device_utilisation is None
