"""From folders to files: the same runs give the same bytes, everything is accounted for, damage stops nothing."""

import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import msgspec
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records_oracle import Oracle, Truth, change_record, ideal

from hpcpar.analysis.collect import collect
from hpcpar.analysis.figures import gallery
from hpcpar.errors import InputError
from hpcpar.records import Cause
from hpcpar.storage import write_file

ORACLE = Oracle(truths={"ddp": Truth(0.010, 0.0020), "pp": Truth(0.030, 0.0019)}, noise=0.02, repeats=2)
TABLES = ["laws.csv", "runs.csv", "scaling.csv", "scaling.json", "scaling.md", "sizeup.csv", "verdicts.csv"]
TABLES = sorted([*TABLES, "cost.csv", "extrap.jsonl", "factors.csv", "pipelines.csv", "report.html", "scaling.tex"])
FIGURES = ["loss", "memory", "phases", "scaling", "throughput", "verdicts"]
KINDS = ["pdf", "png", "svg"]
FILES = sorted([*TABLES, *(f"figures/{figure}.{kind}" for figure in FIGURES for kind in KINDS)])


def names(paths, folder):
    """The files of a report, but those that only pyarrow writes."""
    found = sorted(path.relative_to(folder).as_posix() for path in paths)
    return [name for name in found if not name.endswith(".parquet")]


@pytest.fixture
def few_figures(monkeypatch):
    """What is tested is not how figures look: one of them, as SVG, has all that their files have in common."""
    every = gallery.plans
    monkeypatch.setattr(gallery, "plans", lambda results: (one for one in every(results) if "scaling" in one.stem))
    monkeypatch.setattr(gallery.draw_all, "__defaults__", (("svg",),))


@pytest.mark.full
def test_saving_writes_every_file_and_returns_the_paths(tmp_path):
    ORACLE.write(tmp_path / "runs")

    paths = collect([tmp_path / "runs"]).save(tmp_path / "report")

    assert names(paths, tmp_path / "report") == FILES
    assert all(path.stat().st_size > 100 for path in paths)
    assert (tmp_path / "report" / "figures" / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_runs_give_the_same_bytes_wherever_and_in_whatever_order_they_lie(tmp_path, few_figures):
    oracle = replace(ORACLE, failures={("pp", 4, 1): Cause.TIMEOUT})
    runs = oracle.write(tmp_path / "a")
    first = collect([tmp_path / "a"]).save(tmp_path / "first")
    random.Random(0).shuffle(runs)
    for place, run in enumerate(runs):  # the runs again, in another order, in two folders
        shutil.copytree(run.path, tmp_path / f"b{place % 2}" / "oracle" / run.path.name)

    second = collect([tmp_path / "b1", tmp_path / "b0"]).save(tmp_path / "second")

    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_hash_seed_of_python_changes_no_byte(tmp_path):
    ORACLE.write(tmp_path / "runs")
    script = (
        "import sys; from pathlib import Path; from hpcpar.analysis.collect import collect\n"
        "from hpcpar.analysis.figures import gallery; gallery.draw_all.__defaults__ = (('svg',),)\n"
        "collect([Path(sys.argv[1])]).save(Path(sys.argv[2]))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script, str(tmp_path / "runs"), str(tmp_path / seed)]
        subprocess.run(command, env=environment, check=True)

    for name in [name for name in FILES if not name.endswith((".png", ".pdf"))]:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_complete_means_that_every_run_has_a_result(tmp_path):
    ORACLE.write(tmp_path / "whole")
    replace(ORACLE, failures={("pp", 4, 1): Cause.TIMEOUT}).write(tmp_path / "failed")
    replace(ORACLE, never_ran=frozenset({("pp", 4, 1)})).write(tmp_path / "open")

    assert collect([tmp_path / "whole"]).complete
    assert not collect([tmp_path / "failed"]).complete
    assert not collect([tmp_path / "open"]).complete


def test_a_missing_repeat_is_not_complete(tmp_path):
    runs = ORACLE.write(tmp_path)
    first = [run for run in runs if run.spec().identity.repeat == 1]
    shutil.rmtree(first[0].path)

    results = collect([tmp_path])

    assert results.problems == ()
    assert not results.complete


def test_a_run_that_belongs_to_no_table_is_not_complete_either(tmp_path):
    runs = ORACLE.write(tmp_path)
    (last,) = (
        run for run in runs if (one := run.spec().identity).repeat == 2 and one.nodes == 4 and one.strategy == "pp"
    )
    last.spec_path.unlink()  # its repeat is the highest one, so that no gap shows that it was asked for

    results = collect([tmp_path])

    assert all(cell.runs_ok == cell.runs_asked for cell in results.tables[0].cells)
    assert not results.complete


def test_every_run_is_a_row_of_the_frame_and_unknown_is_not_zero(tmp_path):
    runs = replace(ORACLE, failures={("pp", 4, 1): Cause.TIMEOUT}, never_ran=frozenset({("ddp", 1, 2)})).write(tmp_path)
    runs[0].spec_path.write_bytes(b"{")

    frame = collect([tmp_path]).runs.set_index("run")

    assert len(frame) == len(runs)
    assert sorted(frame["state"].value_counts().to_dict().items()) == [
        ("done", 9),
        ("failed", 1),
        ("planned", 1),
        ("unreadable", 1),
    ]
    damaged = frame.loc[runs[0].path.name]
    assert pd.isna(damaged["nodes"])
    assert pd.isna(damaged["step_time_s"])
    assert frame["ranks"].dtype == "Int64"


def test_what_was_left_out_is_noted(tmp_path):
    run = ORACLE.write(tmp_path)[0]
    path = run.steps_path("1.0")
    path.write_bytes(path.read_bytes() + b"{torn")

    (note,) = collect([tmp_path]).notes

    assert note == f"study oracle: run {run.path.name}: 1 lines could not be read"


def test_another_warm_up_cut_reaches_the_tables(tmp_path):
    ideal().write(tmp_path)

    planned, none = collect([tmp_path]), collect([tmp_path], warmup_steps=0)

    # Ten of forty steps are five times slower.
    ratio = none.tables[0].cells[0].step_time_s.value / planned.tables[0].cells[0].step_time_s.value
    assert ratio == pytest.approx(2, rel=1e-11)
    assert "after the first 0 (warm-up)" in none.to_markdown()


def test_several_tables_have_a_figure_each(tmp_path, few_figures):
    ORACLE.write(tmp_path / "runs")
    ideal(study="weak", scaling="weak", begun_s=1e9).write(tmp_path / "runs")
    ideal(study="zz", nodes=(1,), begun_s=1.1e9).write(tmp_path / "runs")
    said = []

    paths = collect([tmp_path / "runs"]).save(tmp_path / "report", said.append)

    assert {"figures/scaling.svg", "figures/scaling-2.svg"} <= set(names(paths, tmp_path / "report"))
    assert len(said) == 1
    assert said[0] in (tmp_path / "report" / "scaling.md").read_text()


def test_without_matplotlib_the_tables_are_written_and_the_reason_is_said(tmp_path, monkeypatch):
    ORACLE.write(tmp_path / "runs")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = []

    paths = collect([tmp_path / "runs"]).save(tmp_path / "report", said.append)

    assert names(paths, tmp_path / "report") == TABLES
    assert "hpcpar[report]" in said[0]


@pytest.mark.parametrize("options", [{"warmup_steps": -1}, {"efficiency_target": 0.0}, {"efficiency_target": 75.0}])
def test_options_out_of_range_are_refused(tmp_path, options):
    ORACLE.write(tmp_path)

    with pytest.raises(InputError):
        collect([tmp_path], **options)


def test_a_study_in_which_nothing_ran_is_shown(tmp_path):
    places = frozenset((s, n, r) for s in ("ddp", "pp") for n in (1, 2, 4) for r in (1, 2))
    replace(ORACLE, never_ran=places).write(tmp_path)

    results = collect([tmp_path])

    assert "0 of 12 runs have a time" in results.to_markdown()
    assert "missing for ddp, pp: no run of it has a time" in results.to_markdown()
    assert len(results.problems) == 12
    assert results.to_csv().count("\n") == 7


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory):
    root = tmp_path_factory.mktemp("damaged")
    runs = replace(ORACLE, nodes=(1, 2), repeats=1).write(root)
    return root, {path: path.read_bytes() for run in runs for path in run.path.iterdir() if path.is_file()}


NUMBERS = st.sampled_from(
    [b"0", b"-1", b"1e308", b"5e-324", b"99999999999999999999", b"null", b'"x"', b"1e-9", b"1000000000"]
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), NUMBERS), min_size=1, max_size=6))
def test_no_damaged_number_anywhere_stops_the_tables(whole_study, damage):
    root, contents = whole_study
    damaged = dict(contents)
    for file, place, number in damage:
        path = sorted(damaged)[file % len(damaged)]
        parts = split_at_numbers(damaged[path])
        if len(parts) > 1:
            parts[1 + 2 * (place % (len(parts) // 2))] = number
        damaged[path] = b"".join(parts)
    for path, content in damaged.items():
        path.write_bytes(content)

    results = collect([root])

    assert len(results.runs) == 4
    assert results.to_markdown()
    assert results.to_csv()
    assert results.to_json()
    assert results.to_text(width=100)


def split_at_numbers(content):
    return re.split(rb"(?<=:)\s?(-?[0-9][0-9.e+-]*)", content)


@pytest.mark.parametrize("scaling", ["strong", "weak"])
def test_programs_timed_from_outside_are_compared_only_where_that_means_something(tmp_path, few_figures, scaling):
    for folder in replace(ORACLE, scaling=scaling).write(tmp_path / "runs"):
        spec = msgspec.structs.replace(folder.spec(), declares_steps=False)
        write_file(folder.spec_path, msgspec.json.encode(spec))
        change_record(folder, whole_program=True, steps=1)
    results = collect([tmp_path / "runs"])
    results.save(tmp_path / "report")
    cells = [cell for table in results.tables for cell in table.cells if not cell.is_baseline]
    assert cells
    assert all(cell.step_time_s is not None and cell.samples_per_s is None for cell in cells)
    assert all((cell.speedup is not None) == (scaling == "strong") for cell in cells)
    assert all("timed from outside: a step is a whole program" in cell.flags for cell in cells)
