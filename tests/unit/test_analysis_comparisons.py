"""Strategies and collections against a baseline: from run folders to verdicts; nothing dropped; by a second path."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records_oracle import Oracle, Truth, change_record
from scipy import stats

import hpcpar
from hpcpar.analysis.collect import collect
from hpcpar.analysis.judging.comparisons import change_percent
from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.judging.metrics import METRICS, margins
from hpcpar.analysis.judging.verdicts import Word
from hpcpar.analysis.scaling.series import TableKey
from hpcpar.analysis.text import law_tables, verdict_tables
from hpcpar.errors import InputError
from hpcpar.records import Cause

BASE = Truth(0.010, 0.0020)
FASTER, SLOWER = Truth(0.0088, 0.00176), Truth(0.0112, 0.00224)
"""12 % less and 12 % more time at every size."""
STUDY = Oracle(truths={"ddp": BASE, "pp": SLOWER, "fsdp": FASTER}, nodes=(1, 2), repeats=5, noise=0.01)


def found(results, metric="time", sets="comparisons"):
    return {
        (cell.strategy, cell.nodes): cell
        for one in getattr(results, sets)
        for cell in one.comparisons
        if cell.metric == metric
    }


def test_known_differences_get_their_verdicts(tmp_path):
    truths = {"ddp": BASE, "pp": SLOWER, "fsdp": FASTER, "tp": BASE, "cp": BASE}
    Oracle(truths=truths, nodes=(1,), repeats=6, noise=0.01).write(tmp_path / "quiet")
    Oracle(truths=truths, nodes=(1,), repeats=3, noise=0.08, study="noisy", begun_s=1e9).write(tmp_path / "loud")

    quiet, loud = (found(collect([tmp_path / name], reference="ddp")) for name in ("quiet", "loud"))

    assert {name: cell.verdict for (name, _), cell in quiet.items()} == {
        "pp": Word.DETERIORATES,
        "fsdp": Word.IMPROVES,
        "tp": Word.NO_CHANGE,
        "cp": Word.NO_CHANGE,
    }
    assert loud["tp", 1].verdict == Word.INCONCLUSIVE
    assert loud["tp", 1].more_repeats > 3


def test_the_baseline_is_the_strategy_that_the_study_names_first_unless_one_is_named(tmp_path):
    STUDY.write(tmp_path)

    # The oracle plans all runs at the same place of the study: the label decides.
    assert [one.baseline for one in collect([tmp_path]).comparisons] == ["ddp"]
    assert [one.baseline for one in collect([tmp_path], reference="pp").comparisons] == ["pp"]
    with pytest.raises(InputError, match="--reference: no strategy is called dpp\n    did you mean"):
        collect([tmp_path], reference="dpp")


def test_a_reference_that_means_several_series_is_refused(tmp_path):
    truths = {"hybrid/a": BASE, "hybrid/b": SLOWER}
    meshes = {"hybrid/a": {"mesh": "pp=2,dp=-1"}, "hybrid/b": {"mesh": "dp=-1"}}
    Oracle(truths=truths, options=meshes, nodes=(1, 2), repeats=2).write(tmp_path)

    with pytest.raises(InputError, match=r"--reference: hybrid means several series\n    one of: 'hybrid\[dp=-1\]'"):
        collect([tmp_path], reference="hybrid")
    assert set(found(collect([tmp_path], reference="hybrid[dp=-1]"))) == {
        ("hybrid[pp=2,dp=-1]", 1),
        ("hybrid[pp=2,dp=-1]", 2),
    }


def test_percentages_come_from_the_ratio_and_its_interval():
    ratio = Estimate(0.5, 0.4, 0.6)

    assert change_percent(ratio, "lower") == Estimate(50.0, 40.0, 60.0)
    assert change_percent(ratio, "higher") == Estimate(-50.0, -60.0, -40.0)
    # 50 % less time is 100 % more throughput.
    assert change_percent(Estimate(1 / ratio.value), "higher").value == 100.0
    assert str(change_percent(Estimate(1.0), "lower").value) == "0.0"


def test_every_number_by_a_second_path_from_the_raw_step_records(tmp_path):
    """Plain json and scipy.stats, nothing of hpcpar: times, ratio, intervals, p-values, Holm, speed-up, Karp-Flatt."""
    STUDY.write(tmp_path)
    logs = {}
    for spec_path in tmp_path.rglob("spec.json"):
        spec = json.loads(spec_path.read_text())
        steps = [json.loads(line) for path in spec_path.parent.glob("steps.*.jsonl") for line in path.open()]
        kept = [step["time_s"] for step in steps if step["step"] > spec["warmup_steps"]]
        place = spec["identity"]["strategy"], spec["identity"]["nodes"]
        logs.setdefault(place, []).append(math.log(sum(kept) / len(kept)))
    results = collect([tmp_path])

    cells = found(results)
    p_values = []
    for (strategy, nodes), cell in cells.items():
        welch = stats.ttest_ind(logs[strategy, nodes], logs["ddp", nodes], equal_var=False)
        p_values.append(welch.pvalue)
        low, high = np.exp(welch.confidence_interval(0.95))
        assert cell.ratio.value == pytest.approx(
            stats.gmean(np.exp(logs[strategy, nodes])) / stats.gmean(np.exp(logs["ddp", nodes])), rel=1e-9
        )
        assert (cell.ratio.low, cell.ratio.high) == pytest.approx((low, high), rel=1e-9)
        assert (cell.ratio_low90, cell.ratio_high90) == pytest.approx(
            tuple(np.exp(welch.confidence_interval(0.90))), rel=1e-9
        )
        assert cell.change_percent.low == pytest.approx(100 * (1 - high), rel=1e-7)
        assert cell.p_difference == pytest.approx(welch.pvalue, rel=1e-6)
    order = np.argsort(p_values)
    stepped = np.maximum.accumulate([(4 - place) * p_values[index] for place, index in enumerate(order)])
    assert [list(cells.values())[index].p_difference_adjusted for index in order] == pytest.approx(
        np.minimum(stepped, 1), rel=1e-6
    )
    for cell in results.tables[0].cells:
        if cell.nodes == 2:
            welch = stats.ttest_ind(logs[cell.series, 1], logs[cell.series, 2], equal_var=False)
            speedup = math.exp(np.mean(logs[cell.series, 1]) - np.mean(logs[cell.series, 2]))
            low, high = np.exp(welch.confidence_interval(0.95))
            assert (cell.speedup.value, cell.speedup.low, cell.speedup.high) == pytest.approx(
                (speedup, low, high), rel=1e-9
            )
            assert cell.karp_flatt.value == pytest.approx((1 / speedup - 1 / 2) / (1 - 1 / 2), rel=1e-7)


def test_step_time_and_throughput_at_one_batch_are_one_hypothesis(tmp_path):
    STUDY.write(tmp_path)

    (one,) = collect([tmp_path]).comparisons

    assert one.family == 4, "two strategies at two sizes; memory repeats itself exactly and is not tested"
    assert "4 tested differences in this table; without adjustment about 0.20" in collect([tmp_path]).to_markdown()


def test_identical_memory_is_compared_exactly(tmp_path):
    runs = STUDY.write(tmp_path)
    for run in runs:
        if run.spec().identity.strategy == "pp":
            change_record(run, ranks=[replace_memory(rank, 0.9) for rank in run.record().ranks])

    cells = found(collect([tmp_path]), "memory")

    assert (cells["pp", 1].verdict, cells["pp", 1].basis) == (Word.IMPROVES, "deterministic")
    assert cells["pp", 1].change_percent.value == pytest.approx(10, abs=1e-5)
    assert cells["pp", 1].ratio.low is None
    assert cells["fsdp", 1].verdict == Word.NO_CHANGE


def replace_memory(rank, factor):
    rank.peak_memory_bytes = int(rank.peak_memory_bytes * factor)
    return rank


# ---------------------------------------------------------------- what cannot be compared stays, with its reason


def test_what_has_no_partner_stays_with_a_reason(tmp_path):
    lost = {("ddp", 2, repeat): Cause.TIMEOUT for repeat in range(1, 6)}
    some = {("pp", 1, repeat): Cause.OOM_HOST for repeat in range(2, 6)}
    replace(STUDY, failures={**lost, **some}).write(tmp_path)

    results = collect([tmp_path])
    cells = found(results)

    assert set(cells) == {("pp", 1), ("pp", 2), ("fsdp", 1), ("fsdp", 2)}
    assert (cells["pp", 2].verdict, cells["pp", 2].reason) == (
        Word.NOT_COMPARABLE,
        "ddp@2 has no run with a result",
    )
    assert (cells["pp", 1].verdict, cells["pp", 1].reason) == (
        Word.NOT_ENOUGH_RUNS,
        "two runs an arm are the least: 5 of the baseline, 1 here",
    )
    assert cells["pp", 1].flags == ("1 of 5 runs of pp@1",)
    assert "Not comparable: fsdp@2 (step time)" in results.to_markdown()
    assert cells["fsdp", 1].verdict == Word.IMPROVES


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"oversubscribed": True}, "5 runs of pp oversubscribed"),
        ({"versions": {"hpcpar": "0.2.0"}}, "software: hpcpar 0.2.0 here, hpcpar 0.1.0 there"),
        ({"data": {"name": "text", "sha256": "feed"}}, "data: text feed here, nothing there"),
    ],
)
def test_arms_under_other_conditions_are_not_compared(tmp_path, change, reason):
    for run in replace(STUDY, nodes=(1,)).write(tmp_path):
        if run.spec().identity.strategy == "pp":
            change_record(run, **change)

    cells = found(collect([tmp_path]))

    assert (cells["pp", 1].verdict, cells["pp", 1].reason) == (Word.NOT_COMPARABLE, reason)
    assert cells["fsdp", 1].verdict == Word.IMPROVES


def test_a_package_that_one_strategy_alone_needs_is_part_of_the_strategy(tmp_path):
    for run in replace(STUDY, nodes=(1,)).write(tmp_path):
        if run.spec().identity.strategy == "pp":
            change_record(run, versions={"hpcpar": "0.1.0", "deepspeed": "0.19.2"})
    results = collect([tmp_path])

    assert found(results)["pp", 1].verdict != Word.NOT_COMPARABLE
    assert "Software: deepspeed 0.19.2, hpcpar 0.1.0." in results.to_markdown()


def test_precision_is_a_factor_of_one_strategy_and_a_disturbance_between_two(tmp_path):
    truths = {"ddp/a": BASE, "ddp/b": FASTER, "fsdp": FASTER}
    precisions = {"ddp/a": {"precision": "fp32"}, "ddp/b": {"precision": "bf16"}, "fsdp": {"precision": "bf16"}}
    Oracle(truths=truths, options=precisions, nodes=(1,), repeats=5, noise=0.01).write(tmp_path)

    cells = found(collect([tmp_path], reference="ddp[precision=fp32]"))

    assert cells["ddp[precision=bf16]", 1].verdict == Word.IMPROVES
    assert cells["fsdp", 1].reason == "precision: bf16 here, fp32 there"


def test_numbers_that_are_no_numbers_give_reasons_and_no_exception(tmp_path):
    for run in replace(STUDY, nodes=(1,)).write(tmp_path):
        change_record(run, ranks=[replace_memory(rank, 0) for rank in run.record().ranks])

    results = collect([tmp_path])

    assert found(results, "memory") == {}, "nobody has a number: there is no column"
    assert found(results)["fsdp", 1].verdict == Word.IMPROVES


def test_repeats_of_one_seed_are_one_piece_of_evidence_for_the_loss(tmp_path):
    replace(STUDY, nodes=(1,)).write(tmp_path)

    assert found(collect([tmp_path]), "loss") == {}, "its margin is the user's to say"
    cell = found(collect([tmp_path], margin=["loss=0.01"]), "loss")["pp", 1]

    assert cell.verdict == Word.NOT_ENOUGH_RUNS
    assert cell.reason == "two seeds an arm are the least: 1 of the baseline, 1 here"


def test_margins_are_checked_all_at_once():
    with pytest.raises(InputError) as caught:
        margins(["speed=0.1", "time=5", "loss=x"])

    assert str(caught.value).splitlines() == [
        "--margin speed=0.1: there is no metric 'speed'",
        "    one of: " + ", ".join(sorted(metric.name for metric in METRICS)),
        "--margin time=5: '5' is not a share between 0 and 1",
        "    for example --margin time=0.05 for 5 %",
        "--margin loss=x: 'x' is not a share between 0 and 1",
        "    for example --margin loss=0.05 for 5 %",
    ]
    assert margins(["time=0.1"])["time"] == 0.1


# ---------------------------------------------------------------- collections


def two_collections(tmp_path, **changes):
    STUDY.write(tmp_path / "old")
    replace(STUDY, seed=1, study="new", begun_s=1.8e9, **changes).write(tmp_path / "new")
    return tmp_path / "new", tmp_path / "old"


def test_a_collection_against_another_finds_what_became_slower(tmp_path):
    new, old = two_collections(tmp_path, truths={"ddp": BASE, "pp": BASE, "fsdp": SLOWER})
    results = collect([new], against=[old])

    # Seeds differ between these collections, which changes nothing about times.
    cells = found(results, sets="against")
    assert {name: cell.verdict for (name, nodes), cell in cells.items() if nodes == 1} == {
        "ddp": Word.NO_CHANGE,
        "pp": Word.IMPROVES,
        "fsdp": Word.DETERIORATES,
    }
    assert results.failing("deteriorates") == [
        f"fsdp on {nodes} nodes, {metric} against oracle: strongly deteriorates"
        for nodes in (1, 2)
        for metric in ("time", "throughput")
    ]
    assert "Machine, code and software are the same on both sides" in results.to_markdown()


def test_what_differs_between_two_collections_is_named_and_does_not_stop_the_comparison(tmp_path):
    new, old = two_collections(tmp_path)
    for run in new.rglob("record.json"):
        record = json.loads(run.read_text())
        run.write_text(json.dumps({**record, "versions": {"hpcpar": "0.2.0"}}))

    results = collect([new], against=[old])

    assert "What differs: software: hpcpar 0.2.0 here, hpcpar 0.1.0 there." in results.to_markdown()
    assert found(results, sets="against")["ddp", 1].verdict == Word.NO_CHANGE


def test_what_only_one_collection_has_is_shown(tmp_path):
    new, old = two_collections(tmp_path, nodes=(2, 4), truths={"ddp": BASE})

    cells = found(collect([new], against=[old]), sets="against")

    assert cells["ddp", 2].verdict == Word.NO_CHANGE
    assert cells["ddp", 4].reason == "ddp@4 has no run with a result"
    assert cells["pp", 1].verdict == Word.NOT_COMPARABLE
    assert len(cells) == 7


def test_several_studies_of_one_collection_are_not_pooled(tmp_path):
    new, old = two_collections(tmp_path)
    replace(STUDY, study="older", begun_s=1.9e9).write(old)

    cells = found(collect([new], against=[old]), sets="against")

    assert cells["ddp", 1].reason == "the baseline has it in several studies (older, oracle): name one of them"


# ---------------------------------------------------------------- in Python


def test_collect_in_python_returns_frames_and_shows_itself(tmp_path):
    old = STUDY.write(tmp_path)[0].path.parent
    new = replace(STUDY, seed=1, study="new").write(tmp_path / "later")[0].path.parent

    results = hpcpar.collect(tmp_path, reference="ddp")

    assert len(results.runs) == 30
    assert len(results.scaling) == 6
    assert set(results.verdicts["verdict"]) == {"improves", "deteriorates", "no change"}
    assert set(results.laws["law"]) == {"Amdahl", "USL"}
    assert list(results.sizeup.columns)[:4] == ["workload", "cluster", "node_type", "strategy"]
    assert {"few-sizes", "different-baselines"} <= set(results.findings["name"])
    page = results._repr_html_()
    assert page.count("<table>") >= 3
    assert "<script" not in page
    assert hpcpar.collect(str(new), against=old).against


def test_a_notebook_shows_words_as_words(tmp_path):
    for run in replace(STUDY, nodes=(1,), failures={("pp", 1, 1): Cause.PYTHON_ERROR}).write(tmp_path):
        for path in run.path.glob("events.*"):
            path.write_text(path.read_text().replace("it died", "<script>alert(1)</script>"))

    page = hpcpar.collect(tmp_path)._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page


def test_the_manual_defines_every_column():
    """Of verdicts.csv, laws.csv and sizeup.csv."""
    docs = Path(__file__).parents[2] / "docs"
    tables = set(TableKey._fields)
    for page, names in (("verdicts.md", verdict_tables.record_names()), ("laws.md", law_tables.law_names())):
        text = (docs / page).read_text()
        shown = {name.removesuffix("_low").removesuffix("_high") for name in names}
        missing = [name for name in sorted(shown - tables) if f"`{name}`" not in text]
        assert not missing, page
    text = (docs / "laws.md").read_text()
    assert all(f"`{name.removesuffix('_low').removesuffix('_high')}`" in text for name in law_tables.sizeup_names())
