"""Scaling tables against known truth: what was put in comes out, within the intervals and with the right words."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from records_oracle import Oracle, Truth, change_record, ideal
from scipy import stats

from hpcpar.analysis.rows.gather import gather
from hpcpar.analysis.scaling.table import build
from hpcpar.analysis.text.headlines import headlines
from hpcpar.errors import InputError
from hpcpar.records import Cause

TRUTHS = {"ddp": Truth(0.010, 0.0020), "pp": Truth(0.030, 0.0019)}
NOISY = Oracle(truths=TRUTHS, nodes=(1, 2, 4, 8), repeats=4, noise=0.02)
ROUNDED = 1e-11
"""Relative: estimates are kept to 13 digits, means over steps add some units in the last place."""


def tables(tmp_path, *oracles, baseline=""):
    for oracle in oracles:
        oracle.write(tmp_path)
    return build(gather([tmp_path]).rows, baseline)


def cells(table):
    return {(cell.series, cell.nodes): cell for cell in table.cells}


def flags(table):
    return {place: cell.flags for place, cell in cells(table).items() if cell.flags}


@pytest.mark.parametrize("scaling", ["strong", "weak"])
def test_perfect_scaling_has_an_efficiency_of_exactly_one(tmp_path, scaling):
    (table,) = tables(tmp_path, ideal(scaling=scaling))

    for (_, nodes), cell in cells(table).items():
        assert cell.efficiency.value == 1.0
        assert cell.speedup.value == nodes
        assert cell.flags == ()
        assert cell.evidence


def test_times_and_speed_ups_recover_the_truth_as_often_as_the_intervals_say(tmp_path):
    hits = total = 0
    for seed in range(12):
        oracle = replace(NOISY, seed=seed, study=f"s{seed}", begun_s=1e9 + 1e6 * seed)
        (table,) = tables(tmp_path / str(seed), oracle)
        for (strategy, nodes), cell in cells(table).items():
            time_s = oracle.step_time_s(strategy, nodes)
            hits += cell.step_time_s.low <= time_s <= cell.step_time_s.high
            total += 1
            if nodes > 1:
                truth = oracle.step_time_s(strategy, 1) / time_s
                hits += cell.speedup.low <= truth <= cell.speedup.high
                total += 1

    # 168 intervals of 95 %; those of one series share a baseline. The standard error of the share would be 0.017 if all
    # were independent; with about a third of that evidence 0.03, and two and a half of them are allowed.
    assert total == 12 * (8 + 6)
    assert hits / total >= 0.95 - 0.075


def test_every_number_of_a_row_by_an_independent_path(tmp_path):
    (table,) = tables(tmp_path, NOISY)

    runs = {n: np.log([NOISY.run_time_s("ddp", n, r) for r in range(1, 5)]) for n in (1, 8)}
    cell = cells(table)["ddp", 8]
    t_low, t_high = np.exp(stats.t.interval(0.95, 3, loc=runs[8].mean(), scale=stats.sem(runs[8])))
    welch = stats.ttest_ind(runs[1], runs[8], equal_var=False).confidence_interval(0.95)
    speedup = math.exp(runs[1].mean() - runs[8].mean())
    assert cell.step_time_s.value == pytest.approx(math.exp(runs[8].mean()), rel=ROUNDED)
    assert (cell.step_time_s.low, cell.step_time_s.high) == pytest.approx((t_low, t_high), rel=1e-9)
    assert (cell.samples_per_s.low, cell.samples_per_s.high) == pytest.approx((64 / t_high, 64 / t_low), rel=1e-9)
    assert cell.speedup.value == pytest.approx(speedup, rel=ROUNDED)
    assert (cell.speedup.low, cell.speedup.high) == pytest.approx((math.exp(welch.low), math.exp(welch.high)), rel=1e-9)
    assert cell.efficiency.value == pytest.approx(speedup / 8, rel=ROUNDED)
    assert cell.efficiency.low == pytest.approx(cell.speedup.low / 8, rel=ROUNDED)


def test_weak_scaling_compares_throughput_and_strong_scaling_time(tmp_path):
    weak = Oracle(truths={"ddp": Truth(0.01, 0.002)}, scaling="weak", global_batch=16, ranks_per_node=2)
    (table,) = tables(tmp_path, weak)

    # Every rank has 8 samples at every size, so the truth takes the same time everywhere: scaled speed-up is ideal.
    cell = cells(table)["ddp", 4]
    assert (cell.global_batch, cell.ranks) == (64, 8)
    assert cell.step_time_s.value == pytest.approx(0.01 + 0.002 * 8, rel=ROUNDED)
    assert cell.speedup.value == pytest.approx(4, rel=ROUNDED)
    assert table.key.scaling == "weak"


def test_the_smallest_size_of_each_series_is_its_baseline_and_has_no_interval(tmp_path):
    (table,) = tables(tmp_path, NOISY)

    assert {reference.name for reference in table.references} == {"ddp@1", "pp@1"}
    for (_, nodes), cell in cells(table).items():
        assert cell.is_baseline == (nodes == 1)
        assert (cell.speedup.low is None) == (nodes == 1)
        assert cell.baseline == f"{cell.series}@1"


def test_a_common_baseline_serves_every_series(tmp_path):
    (table,) = tables(tmp_path, replace(NOISY, noise=0), baseline="ddp@2")

    truth = TRUTHS["ddp"].step_time_s(64, 4) / TRUTHS["pp"].step_time_s(64, 16)
    cell = cells(table)["pp", 8]
    assert cell.speedup.value == pytest.approx(truth, rel=ROUNDED)
    assert cell.efficiency.value == pytest.approx(truth / 4, rel=ROUNDED)  # 16 ranks against 4
    assert [cell.nodes for cell in table.cells if cell.is_baseline] == [2]


def test_a_strategy_whose_mesh_grows_is_one_series(tmp_path):
    oracle = Oracle(
        truths={"hybrid/two": Truth(0.01, 0.002), "hybrid/four": Truth(0.02, 0.002)},
        options={"hybrid/two": {"mesh": "pp=2,dp=-1"}, "hybrid/four": {"mesh": "pp=4,dp=-1"}},
        nodes=(2, 4),
    )
    (table,) = tables(tmp_path, oracle)

    assert {place: cell.mesh for place, cell in cells(table).items()} == {
        ("hybrid[pp=2,dp=-1]", 2): "pp=2 dp_replicate=2",
        ("hybrid[pp=2,dp=-1]", 4): "pp=2 dp_replicate=4",
        ("hybrid[pp=4,dp=-1]", 2): "pp=4",
        ("hybrid[pp=4,dp=-1]", 4): "pp=4 dp_replicate=2",
    }


def test_labels_show_the_options_that_differ_and_no_others(tmp_path):
    oracle = Oracle(
        truths={"ddp/a": Truth(0.01, 0.002), "ddp/b": Truth(0.02, 0.002)},
        options={"ddp/a": {"bucket_mb": 25, "overlap": True}, "ddp/b": {"bucket_mb": 50, "overlap": True}},
    )
    (table,) = tables(tmp_path, oracle)

    assert set(table.series()) == {"ddp[bucket_mb=25]", "ddp[bucket_mb=50]"}


def test_two_batches_at_one_size_are_two_series_and_never_an_average(tmp_path):
    (table,) = tables(tmp_path, ideal(), ideal(global_batch=128, begun_s=1e9))

    assert set(table.series()) == {"ddp[load=64]", "ddp[load=128]"}
    assert all(cell.runs_ok == cell.runs_asked == 3 for cell in table.cells)


def test_one_run_has_no_interval_and_says_so(tmp_path):
    (table,) = tables(tmp_path, replace(NOISY, repeats=1))

    for cell in table.cells:
        assert "1 run: no interval" in cell.flags
        assert (cell.step_time_s.low, cell.speedup.low, cell.efficiency.low) == (None, None, None)
    assert all("nothing is said about the target" in line for line in headlines(table, 0.75))


def test_failed_and_planned_runs_are_counted_in_the_row(tmp_path):
    oracle = replace(
        NOISY,
        failures={("ddp", 4, 2): Cause.OOM_DEVICE, ("ddp", 4, 3): Cause.TIMEOUT},
        never_ran=frozenset({("pp", 8, 1)}),
    )
    (table,) = tables(tmp_path, oracle)

    ddp, pp = cells(table)["ddp", 4], cells(table)["pp", 8]
    assert (ddp.runs_ok, ddp.runs_failed, ddp.runs_open, ddp.runs_asked) == (2, 2, 0, 4)
    assert ddp.flags == ("2 of 4 runs with a time", "1 failed: oom_device", "1 failed: timeout")
    assert (pp.runs_ok, pp.runs_failed, pp.runs_open, pp.runs_asked) == (3, 0, 1, 4)
    assert pp.flags == ("3 of 4 runs with a time", "1 planned")


def test_a_repeat_without_a_folder_is_missed(tmp_path):
    oracle = replace(NOISY, repeats=3)
    runs = oracle.write(tmp_path)
    (gone,) = [run for run in runs if (s := run.spec().identity).repeat == 2 and s.nodes == 4 and s.strategy == "pp"]
    gone.path.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "spec.json").unlink()

    (table,) = build(gather([tmp_path / "oracle"]).rows)

    assert flags(table) == {("pp", 4): ("2 of 3 runs with a time", "1 without a folder")}


def test_a_size_where_every_run_failed_is_a_row_without_numbers(tmp_path):
    oracle = replace(NOISY, failures={("ddp", 8, r): Cause.OOM_DEVICE for r in range(1, 5)})
    (table,) = tables(tmp_path, oracle)

    cell = cells(table)["ddp", 8]
    assert (cell.step_time_s, cell.speedup, cell.efficiency, cell.evidence) == (None, None, None, False)
    assert cell.runs_failed == 4


def test_a_baseline_that_failed_leaves_times_and_no_speed_up(tmp_path):
    oracle = replace(NOISY, failures={("ddp", 1, r): Cause.TIMEOUT for r in range(1, 5)})
    (table,) = tables(tmp_path, oracle, baseline="ddp@1")

    for cell in table.cells:
        assert (cell.speedup, cell.efficiency) == (None, None)
        assert "baseline missing" in cell.flags
    assert cells(table)["ddp", 2].step_time_s is not None


def test_without_a_common_baseline_the_smallest_size_with_a_time_is_it(tmp_path):
    oracle = replace(NOISY, failures={("ddp", 1, r): Cause.TIMEOUT for r in range(1, 5)})
    (table,) = tables(tmp_path, oracle)

    assert cells(table)["ddp", 2].is_baseline
    assert cells(table)["ddp", 8].baseline == "ddp@2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ddp", "not STRATEGY@NODES"),
        ("@2", "not STRATEGY@NODES"),
        ("ddp@0", "not STRATEGY@NODES"),
        ("ddp@two", "not STRATEGY@NODES"),
        ("dpp@1", "ddp@1"),
        ("ddp@3", "no run of ddp@3"),
    ],
)
def test_a_baseline_that_nobody_planned_is_refused_with_what_there_is(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        tables(tmp_path, NOISY, baseline=text)


def test_a_baseline_that_means_two_series_is_refused(tmp_path):
    oracle = Oracle(
        truths={"ddp/a": Truth(0.01, 0.002), "ddp/b": Truth(0.02, 0.002)},
        options={"ddp/a": {"bucket_mb": 25}, "ddp/b": {"bucket_mb": 50}},
    )
    with pytest.raises(InputError, match="several series"):
        tables(tmp_path, oracle, baseline="ddp@1")

    (table,) = tables(tmp_path, baseline="ddp[bucket_mb=50]@1")
    assert {cell.baseline for cell in table.cells} == {"ddp[bucket_mb=50]@1"}


def test_oversubscribed_rows_keep_their_numbers_and_carry_no_headline(tmp_path):
    (table,) = tables(tmp_path, replace(NOISY, oversubscribed_from=4))

    for (_, nodes), cell in cells(table).items():
        assert cell.speedup is not None
        assert cell.evidence == (nodes < 4)
        assert ("oversubscribed" in cell.flags) == (nodes >= 4)
    said = headlines(table, 0.75)
    assert any(line.startswith("ddp on 2 nodes: speed-up") for line in said)
    assert "Nothing is concluded for ddp on 4, 8 nodes: oversubscribed." in said


def test_an_oversubscribed_baseline_spoils_the_whole_series(tmp_path):
    (table,) = tables(tmp_path, replace(NOISY, oversubscribed_from=1))

    assert not any(cell.evidence for cell in table.cells)
    assert all(line.startswith("Nothing is concluded") for line in headlines(table, 0.75))


def test_a_baseline_that_alone_is_oversubscribed_spoils_what_is_compared_with_it(tmp_path):
    for run in ideal().write(tmp_path):
        change_record(run, oversubscribed=run.spec().identity.nodes == 1)

    (table,) = build(gather([tmp_path]).rows)

    assert flags(table) == {
        ("ddp", 1): ("oversubscribed",),
        ("ddp", 2): ("its baseline was oversubscribed",),
        ("ddp", 4): ("its baseline was oversubscribed",),
    }
    assert not any(cell.evidence for cell in table.cells)


def test_runs_beside_each_other_on_one_machine_are_no_evidence(tmp_path):
    runs = [run for run in ideal().write(tmp_path) if run.spec().identity.nodes == 4]
    first = runs[0].record()
    change_record(runs[1], started=first.started, ended=first.ended)

    (table,) = build(gather([tmp_path]).rows)

    assert flags(table) == {("ddp", 4): ("shared its machine with other runs",)}
    assert [cell.nodes for cell in table.cells if cell.evidence] == [1, 2]


def test_nodes_on_one_physical_machine_are_named(tmp_path):
    (table,) = tables(tmp_path, ideal(one_machine=True))

    assert flags(table) == {
        ("ddp", 2): ("2 nodes on 1 physical machine",),
        ("ddp", 4): ("4 nodes on 1 physical machine",),
    }


@pytest.mark.parametrize(("factor", "flagged"), [(1.04, False), (1.06, True)])
def test_more_than_five_per_cent_above_ideal_is_flagged(tmp_path, factor, flagged):
    slow = ideal(nodes=(1,), truths={"ddp": Truth(0.0, factor * 2**-8)})
    slow.write(tmp_path)
    ideal(nodes=(2, 4), begun_s=1e9).write(tmp_path)
    (table,) = build(gather([tmp_path]).rows)

    assert any("super-linear" in flag for flag in cells(table)["ddp", 4].flags) == flagged


def test_a_weak_load_that_is_not_constant_is_flagged_and_no_evidence(tmp_path):
    weak = ideal(scaling="weak", nodes=(1, 2))
    weak.write(tmp_path)
    ideal(scaling="weak", nodes=(4,), global_batch=200, begun_s=1e9).write(tmp_path)
    (table,) = build(gather([tmp_path]).rows)

    cell = cells(table)["ddp", 4]
    assert cell.flags == ("weak load not constant: 25 a rank, the baseline has 32",)
    assert not cell.evidence
    assert cells(table)["ddp", 2].evidence


def test_another_global_batch_has_no_strong_speed_up(tmp_path):
    ideal(nodes=(1, 2)).write(tmp_path)
    ideal(nodes=(4,), global_batch=128, begun_s=1e9).write(tmp_path)
    (table,) = build(gather([tmp_path]).rows)

    cell = cells(table)["ddp", 4]
    assert (cell.speedup, cell.efficiency) == (None, None)
    assert cell.flags == ("global batch 128 is not the baseline's 64: no speed-up",)


def test_undeclared_scaling_has_times_and_no_speed_up(tmp_path):
    (table,) = tables(tmp_path, ideal(scaling="undeclared"))

    for cell in table.cells:
        assert cell.step_time_s is not None
        assert (cell.speedup, cell.evidence) == (None, False)
        assert cell.flags == ("scaling is undeclared: no speed-up",)
    assert headlines(table, 0.75) == []


def test_losses_show_whether_the_same_was_computed(tmp_path):
    runs = ideal().write(tmp_path)
    change_record(runs[-1], loss_last=0.75)

    (table,) = build(gather([tmp_path]).rows)

    cell = cells(table)["ddp", 4]
    assert (cell.loss_last_min, cell.loss_last_max) == (4 / 40, 0.75)  # loss_at(40), and the one that differs


def test_waiting_for_data_is_said_because_the_time_leaves_it_out(tmp_path):
    run = ideal(nodes=(1,), repeats=1).write(tmp_path)[0]
    steps = [msgspec.structs.replace(step, data_s=0.1 * step.time_s) for step in run.steps("1.0").records]
    run.steps_path("1.0").write_bytes(b"".join(msgspec.json.encode(step) + b"\n" for step in steps))

    (table,) = build(gather([tmp_path]).rows)

    assert "waits for data up to 10% of the step time, not counted in it" in cells(table)["ddp", 1].flags


def test_studies_machines_and_layouts_are_never_mixed(tmp_path):
    found = tables(
        tmp_path,
        ideal(),
        ideal(study="b", begun_s=1e9),
        ideal(ranks_per_node=4, begun_s=1.1e9),
        ideal(workload="mlp", begun_s=1.2e9),
        ideal(scaling="weak", study="c", begun_s=1.3e9),
    )

    assert len({table.key for table in found}) == len(found) == 5
    assert all(len(table.cells) == 3 for table in found)


def test_the_headline_holds_the_target_against_whole_intervals(tmp_path):
    # Efficiencies of (0.01 + 0.064) / n / (0.01 + 0.064 / n): 0.88 on 2 nodes, 0.71 on 4, 0.51 on 8.
    (table,) = tables(tmp_path, replace(NOISY, truths={"ddp": TRUTHS["ddp"]}, noise=0.0))

    (line,) = headlines(table, 0.75)

    assert line.startswith("ddp on 8 nodes: speed-up 4.11")  # 0.074 / 0.018
    assert "up to 2 nodes" in line
    assert "already on 2 nodes" in headlines(table, 0.95)[0]


def test_a_target_inside_the_interval_is_not_reached(tmp_path):
    (table,) = tables(tmp_path, replace(NOISY, truths={"ddp": TRUTHS["ddp"]}))
    efficiency = cells(table)["ddp", 2].efficiency

    assert "already on 2 nodes" in headlines(table, (efficiency.low + efficiency.value) / 2)[0]
    assert "already" not in headlines(table, 0.99 * efficiency.low)[0]


def test_a_size_that_is_no_evidence_ends_what_is_said_about_the_target(tmp_path):
    for run in ideal().write(tmp_path):
        change_record(run, oversubscribed=run.spec().identity.nodes == 2)

    (table,) = build(gather([tmp_path]).rows)

    assert "already on 2 nodes the interval cannot be held against the target of 50 %" in headlines(table, 0.5)[0]
