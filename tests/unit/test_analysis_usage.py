"""Memory, processors, energy and shares of the peak, from records of which the truth is known."""

import msgspec
import pytest
from records_oracle import Oracle, Truth, change_record

from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.analysis.rows.usage import pipeline_bubble
from hpcpar.mesh import Mesh

ORACLE = Oracle(truths={"ddp": Truth(0.01, 0.002)})
"""Four ranks on two machines."""


@pytest.fixture
def run(tmp_path):
    return ORACLE.write_run(tmp_path, "ddp", 2, 1)


def change_ranks(run, change):
    """Apply a function of the rank's number to the facts of every rank."""
    ranks = msgspec.to_builtins(run.record().ranks)
    change_record(run, ranks=[{**facts, **change(facts["rank"])} for facts in ranks])


def test_what_nobody_measured_is_not_there(run):
    row = reduce_run(run)
    names = ("cpu_utilisation", "device_energy_j", "machine_energy_j", "mfu", "memory_parameters_bytes")
    assert [getattr(row, name) for name in (*names, "model_flops_per_s")] == [None] * 6


def test_memory_is_that_of_the_rank_that_holds_most(run):
    change_ranks(run, lambda rank: {"held_bytes": {"parameters": 10 * rank, "buffers": 1}, "peak_reserved_bytes": rank})
    row = reduce_run(run)
    assert (row.memory_parameters_bytes, row.memory_buffers_bytes, row.memory_optimizer_bytes) == (30, 1, None)
    assert row.peak_reserved_bytes == 3


def test_processors_and_energy(run):
    def used(rank):
        both = {"train_wall_s": 10.0, "train_cpu_s": 4.0 + rank, "cpus_asked": 2, "device_name": "NVIDIA H200"}
        return {**both, "device_energy_j": 100.0, "machine_energy_j": 500.0}

    change_ranks(run, used)
    row = reduce_run(run)
    assert row.cpu_utilisation == pytest.approx((4 + 5 + 6 + 7) / (4 * 10 * 2))
    assert (row.device_energy_j, row.device_power_w) == (400.0, 40.0)
    assert (row.machine_energy_j, row.machine_power_w) == (1000.0, 100.0)  # two ranks a machine read one counter
    assert row.device_names == "NVIDIA H200"


def test_one_rank_without_a_counter_is_no_sum(run):
    change_ranks(run, lambda rank: {"device_energy_j": 1.0 if rank else None})
    assert reduce_run(run).device_energy_j is None


FLOPS = {"palm": 6e12, "with-embedding": 7e12, "causal": 5e12}


def test_mfu_is_by_convention_of_the_peaks_of_all_devices(run):
    change_ranks(run, lambda rank: {"device_name": "NVIDIA A100-SXM4-40GB"})
    change_record(run, model_flops=FLOPS)
    row = reduce_run(run)
    assert row.model_flops_per_s == pytest.approx(6e12 * row.samples_per_s)
    peaks = 4 * 19.5e12  # fp32, which is what runs compute in where nothing is said
    assert row.mfu == pytest.approx(6e12 * row.samples_per_s / peaks)
    assert row.mfu_with_embedding == pytest.approx(row.mfu * 7 / 6)
    assert row.mfu_causal == pytest.approx(row.mfu * 5 / 6)


def test_a_device_that_is_not_in_the_table_has_no_mfu_and_the_note_says_so(run):
    change_ranks(run, lambda rank: {"device_name": "NVIDIA A100-SXM4-40GB" if rank else "NVIDIA L40S"})
    change_record(run, model_flops=FLOPS)
    row = reduce_run(run)
    assert (row.mfu, row.mfu_causal) == (None, None)
    assert row.model_flops_per_s is not None
    assert "no MFU: the fp32 peak of NVIDIA L40S is not in the table" in row.notes


def test_load_balance_is_the_mean_rank_s_time_over_the_slowest_one_s(run):
    steps = run.steps("1.0").records
    row = reduce_run(run)
    kept = [step for step in steps if step.step > 10]
    expected = sum(step.time_mean_s for step in kept) / sum(step.time_s for step in kept)
    assert row.load_balance == pytest.approx(expected)
    assert row.slowest_host in {"n1", "n2"}


@pytest.mark.parametrize(
    ("mesh", "options", "expected"),
    [
        ({"pp": 4}, {}, 3 / (8 + 3)),
        ({"pp": 4}, {"schedule": "interleaved-1f1b", "virtual_stages": 2}, 3 / (16 + 3)),
        ({"pp": 4}, {"schedule": "zbv"}, None),
        ({"pp": 4}, {"schedule": "another"}, None),
        ({"pp": 4}, {"virtual_stages": "two"}, None),
        ({"dp_replicate": 4}, {}, None),
    ],
)
def test_a_pipeline_has_the_bubble_of_its_schedule(run, mesh, options, expected):
    spec = run.spec()
    identity = msgspec.structs.replace(spec.identity, mesh=Mesh(**mesh), grad_accum=8, strategy_options=options)
    assert pipeline_bubble(msgspec.structs.replace(spec, identity=identity)) == expected


def test_the_lowest_clock_counts(run):
    change_ranks(run, lambda rank: {"clock_mhz": 2000.0 - rank if rank else None})
    assert reduce_run(run).clock_mhz == 1997.0
