"""Tables on paper: rounding, what must stand beside the numbers, and nothing that breaks a table or a terminal."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_oracle import Oracle, Truth, change_record, ideal

from hpcpar.analysis.collect import collect
from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.rows.frame import columns
from hpcpar.analysis.text import numbers, tables
from hpcpar.analysis.text.models import HEADS
from hpcpar.records import Cause

METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"
ORACLE = Oracle(
    truths={"ddp": Truth(0.010, 0.0020), "pp": Truth(0.030, 0.0019)},
    noise=0.02,
    tokens_per_sample=128,
    workload="llama-tiny",
    failures={("pp", 4, 1): Cause.OOM_DEVICE},
)


@pytest.fixture
def results(tmp_path):
    ORACLE.write(tmp_path)
    return collect([tmp_path])


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (None, "-"),
        (Estimate(112.4), "112.4"),  # no interval: four digits
        (Estimate(112.4, 111.0, 113.8), "112.4 [111.0, 113.8]"),  # half-width 1.4: tenths
        (Estimate(0.00123456, 0.00120, 0.00127), "0.001235 [0.001200, 0.001270]"),  # 3.5e-5: millionths
        (Estimate(2.0, 2.0, 2.0), "2.000 [2.000, 2.000]"),  # no width: four digits
        (Estimate(1783.2, 1500.0, 2100.0), "1780 [1500, 2100]"),  # half-width 300: tens
        (Estimate(123456.7, 123456.6999, 123456.7001), "123457 [123457, 123457]"),  # never more than six digits
        (Estimate(0.05, 0.00109, 2.296), "0.050 [0.001, 2.296]"),  # however wide the interval: the value keeps two
        (Estimate(0.5, 1e-300, 1e300), "0.50 [1e-300, 1e+300]"),  # nothing is known, and it shows
    ],
)
def test_numbers_are_rounded_by_their_interval(known, text):
    assert numbers.estimate(known) == text


@given(st.floats(1e-9, 1e9), st.floats(0, 2), st.floats(0, 2))
def test_a_printed_interval_is_the_interval_to_two_digits_of_its_half_width(value, down, up):
    low, high = value / (1 + down), value * (1 + up)

    shown = [float(x) for x in re.findall(r"[-+.e\d]+", numbers.estimate(Estimate(value, low, high)))]

    # Two digits of the half-width leave at most 5 % of it; six digits of the value at most 5e-6 of that.
    allowed = 0.05 * (high - low) / 2 + 5.1e-6 * max(abs(value), high)
    assert shown == pytest.approx([value, low, high], abs=max(allowed, 1.01e-3 * value if high == low else 0))


def test_markdown_says_everything_that_a_reader_needs(results):
    text = results.to_markdown()

    for words in (
        "## Strong scaling of llama-tiny on testbed (cpu nodes), study oracle",
        "Fixed: global batch of 64 samples.",
        "Baseline: ddp on 1 node (2 ranks):",
        "Baseline: pp on 1 node (2 ranks):",
        "after the first 10 (warm-up) were cut",
        "Interval: 95 %, Student's t on the logarithms of runs",
        "17 of 18 runs have a time",
        "They ran on 4 physical machines; a rank could use up to 16 CPUs there.",
        "Software: hpcpar 0.1.0.",
        "## Without a result: 1 run of 18",
        "rank 0 on n1: it died of oom_device",
    ):
        assert words in text


def test_every_row_of_a_markdown_table_has_all_its_cells(tmp_path):
    runs = ORACLE.write(tmp_path)
    change_record(runs[0], cause=Cause.PYTHON_ERROR, notes=["a | b\n\x1b[31m<b>red</b>\x00 `x`"])

    text = collect([tmp_path]).to_markdown()

    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block
    assert "a \\| b [31m&lt;b>red&lt;/b>" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)


@pytest.mark.parametrize("width", [None, 80, 160])
def test_a_terminal_gets_no_control_characters_from_a_job_and_no_markup_is_read(tmp_path, width):
    runs = ORACLE.write(tmp_path)
    change_record(runs[0], cause=Cause.PYTHON_ERROR, notes=["[bold]\x1b]0;title\x07 \x1b[2J"])

    text = collect([tmp_path]).to_text(width=width)

    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "[bold]" in text


def test_plain_text_has_no_escapes_at_all(results):
    assert "\x1b" not in results.to_text()
    assert "pp on 4 nodes: 2 of 3 runs with a time; 1 failed: oom_device" in results.to_text()


def test_csv_carries_full_precision_and_intervals_in_columns_of_their_own(results):
    rows = list(csv.DictReader(io.StringIO(results.to_csv())))

    assert len(rows) == 6
    cell = next(cell for cell in results.tables[0].cells if (cell.series, cell.nodes) == ("ddp", 4))
    (row,) = [row for row in rows if (row["series"], row["nodes"]) == ("ddp", "4")]
    for name in tables.ESTIMATES:
        known = getattr(cell, name)
        if known is None:  # a strong ladder has no scale-up
            assert [row[name], row[f"{name}_low"], row[f"{name}_high"]] == ["", "", ""]
            continue
        assert [float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"])] == [
            known.value,
            known.low,
            known.high,
        ]
    (baseline,) = [row for row in rows if (row["series"], row["nodes"]) == ("pp", "1")]
    assert (baseline["speedup"], baseline["speedup_low"]) == ("1.0", "")


def test_json_holds_the_tables_with_their_words_and_the_problems(results):
    content = json.loads(results.to_json())

    assert (content["schema"], content["complete"]) == (2, False)
    (table,) = content["tables"]
    assert [one["name"] for one in table["baselines"]] == ["ddp@1", "pp@1"]
    assert len(table["rows"]) == 6
    assert any(fact.startswith("Interval: 95 %") for fact in table["facts"])
    assert [(row["state"], row["cause"]) for row in content["problems"]] == [("failed", "oom_device")]


def test_weak_tables_are_labelled_weak(tmp_path):
    replace(ideal(scaling="weak"), workload="mlp").write(tmp_path)

    text = collect([tmp_path]).to_markdown()

    assert "## Weak scaling of mlp" in text
    assert "Fixed: 32 samples a rank." in text
    assert "scaled speed-up" in text


def test_oversubscription_is_said_in_words(tmp_path):
    ideal(oversubscribed_from=4).write(tmp_path)

    assert "no evidence of scaling, and nothing is concluded from them" in collect([tmp_path]).to_markdown()


def test_software_that_differs_between_runs_is_said(tmp_path):
    runs = ORACLE.write(tmp_path)
    change_record(runs[0], versions={"hpcpar": "0.2.0"})

    assert "Software differs between runs: hpcpar 0.1.0 / 0.2.0." in collect([tmp_path]).to_markdown()


def test_the_manual_defines_every_column_that_is_printed():
    defined = set(re.findall(r"^\| `([a-z0-9A-Z_]+)`", METRICS.read_text(), re.MULTILINE))
    intervals = {f"{name}_{side}" for name in tables.ESTIMATES for side in ("low", "high")}

    assert {*columns(), *tables.record_names()} - intervals == defined


def test_several_models_stand_beside_each_other(tmp_path):
    truths = {"ddp": Truth(0.01, 0.002)}
    for workload, value in (("cnn", 0.9), ("mlp", 0.8)):
        oracle = Oracle(truths=truths, workload=workload, nodes=(1,), repeats=2, study=workload)
        for repeat in (1, 2):
            run = oracle.write_run(tmp_path, "ddp", 1, repeat)
            found = {"num_samples": 9, "loss": 0.5, "metric": "accuracy", "value": value + repeat / 100}
            change_record(run, evaluation=found)
    text = collect([tmp_path]).to_markdown()
    section = text.split("Models", 1)[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    assert rows[0] == HEADS
    assert [row[1:8] for row in rows[2:4]] == [
        ["cnn", "ddp", "1", "2", "2/2", "accuracy", "0.910000 .. 0.920000"],
        ["mlp", "ddp", "1", "2", "2/2", "accuracy", "0.810000 .. 0.820000"],
    ]


def test_one_model_has_no_table_of_models(tmp_path):
    run = Oracle(truths={"ddp": Truth(0.01, 0.002)}, nodes=(1,)).write_run(tmp_path, "ddp", 1, 1)
    change_record(run, evaluation={"num_samples": 9, "loss": 0.5, "metric": "accuracy", "value": 0.5})
    assert "\n**Models**" not in collect([tmp_path]).to_markdown()
