"""Finding runs: all of them, once, in an order that depends on nothing but the runs."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from records_oracle import Oracle, Truth, change_record, ideal

from hpcpar.analysis.rows.gather import gather
from hpcpar.analysis.rows.reduce import MISSING, UNREADABLE
from hpcpar.errors import InputError
from hpcpar.runs import StudyFolder

ORACLE = Oracle(truths={"ddp": Truth(0.01, 0.002), "pp": Truth(0.02, 0.002)}, repeats=2)


def names(gathered):
    return [(row.study, row.strategy, row.nodes, row.repeat) for row in gathered.rows]


def test_every_run_of_every_study_is_found_in_the_order_of_the_plan(tmp_path):
    ORACLE.write(tmp_path)
    ideal(study="another").write(tmp_path)

    found = names(gather([tmp_path]))

    plan = [("another", "ddp", n, r) for n in (1, 2, 4) for r in (1, 2, 3)]
    plan += [("oracle", s, n, r) for s in ("ddp", "pp") for n in (1, 2, 4) for r in (1, 2)]
    assert found == plan


def test_naming_a_study_twice_reads_it_once(tmp_path):
    run = ORACLE.write(tmp_path)[0]

    gathered = gather([tmp_path / "oracle", tmp_path, run.path, tmp_path / "oracle"])

    assert len(gathered.rows) == 12
    assert gathered.notes == ()


def test_a_copied_run_counts_once_and_is_mentioned(tmp_path):
    runs = ORACLE.write(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "laptop")
    (tmp_path / "laptop" / "oracle" / runs[0].path.name / "record.json").unlink()
    runs[1].record_path.unlink()

    one = gather([tmp_path / "here", tmp_path / "laptop"])
    other = gather([tmp_path / "laptop", tmp_path / "here"])

    assert one == other
    assert len(one.rows) == 12
    assert all(row.usable for row in one.rows)  # of two copies the one that tells more
    assert sum("counts once" in note for note in one.notes) == 12


def test_a_run_that_a_batch_names_and_that_is_gone_is_a_row(tmp_path):
    runs = ORACLE.write(tmp_path)
    StudyFolder(tmp_path / "oracle").batch("b1").create("#!/bin/sh\n", [run.path.name for run in runs])
    shutil.rmtree(runs[3].path)

    rows = gather([tmp_path]).rows

    assert [(row.run, row.state) for row in rows if not row.usable] == [(runs[3].path.name, MISSING)]
    assert len(rows) == 12


def test_a_damaged_manifest_is_mentioned(tmp_path):
    ORACLE.write(tmp_path)
    batch = StudyFolder(tmp_path / "oracle").batch("b1")
    batch.create("#!/bin/sh\n", ["x"])
    batch.manifest_path.write_bytes(b"{torn\n" + batch.manifest_path.read_bytes())

    assert any("1 lines of batch b1's manifest" in note for note in gather([tmp_path]).notes)


def test_a_run_that_lost_its_spec_is_a_row(tmp_path):
    runs = ORACLE.write(tmp_path)
    runs[0].spec_path.unlink()

    rows = gather([tmp_path]).rows

    assert [(row.run, row.state) for row in rows if not row.usable] == [(runs[0].path.name, UNREADABLE)]


def test_a_run_whose_folder_says_nothing_is_a_row_all_the_same(tmp_path, monkeypatch):
    runs = ORACLE.write(tmp_path)
    study = StudyFolder(tmp_path / "oracle")
    study.batch("b").create("", [run.path.name for run in runs[:3]])
    for run in runs[:3]:
        shutil.rmtree(run.path)
    for run in runs[:2]:
        run.path.mkdir()
    true = os.listdir

    def listed(path):
        if str(path) == str(runs[0].path):  # root may list every folder
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return true(path)

    monkeypatch.setattr(os, "listdir", listed)
    found = {row.run: (row.state, row.message) for row in gather([tmp_path]).rows if not row.usable}
    assert found == {
        runs[0].path.name: (UNREADABLE, "batch b names it, but its folder cannot be read: Permission denied"),
        runs[1].path.name: (UNREADABLE, "batch b names it, but its folder has no spec.json"),
        runs[2].path.name: (MISSING, "batch b names it, but its folder is gone"),
    }


@pytest.mark.parametrize("name", ["..", ".", "../..", "/etc", "a/b", "\0"])
def test_a_manifest_leads_nowhere_out_of_its_study(tmp_path, name):
    ORACLE.write(tmp_path)
    StudyFolder(tmp_path / "oracle").batch("b").create("", [name])
    assert all(row.usable for row in gather([tmp_path]).rows)


def test_a_folder_of_reports_beside_the_runs_is_no_run(tmp_path):
    ORACLE.write(tmp_path)
    (tmp_path / "oracle" / "report").mkdir()
    (tmp_path / "oracle" / "report" / "runs.csv").touch()

    assert len(gather([tmp_path]).rows) == 12


def test_runs_that_shared_a_machine_at_the_same_time_are_marked(tmp_path):
    runs = ORACLE.write(tmp_path)
    first, second, third = (run.record() for run in runs[:3])
    change_record(runs[1], started=first.started + 50, ended=first.ended + 50)  # overlaps the first alone

    shared = {row.run: row.shared_with for row in gather([tmp_path]).rows if row.shared_with}

    assert second.ended < third.started
    assert shared == {runs[0].path.name: 1, runs[1].path.name: 1}


def test_a_run_with_an_impossible_end_is_no_company_for_those_after_it(tmp_path):
    runs = ORACLE.write(tmp_path)
    change_record(runs[0], ended=1e300)
    assert not any(row.shared_with for row in gather([tmp_path]).rows)


def test_runs_that_follow_each_other_or_use_no_cpu_share_nothing(tmp_path):
    runs = ORACLE.write(tmp_path)
    first = runs[0].record()
    change_record(runs[1], started=first.ended, ended=first.ended + 1)
    assert not any(row.shared_with for row in gather([tmp_path]).rows)

    change_record(runs[1], started=first.started, ended=first.ended)
    for run in runs:
        run.write_spec(msgspec.structs.replace(run.spec(), uses_cpu=False))
    assert not any(row.shared_with for row in gather([tmp_path]).rows)


@pytest.mark.parametrize("paths", [[], ["nowhere"], ["empty"]])
def test_nothing_to_read_is_an_input_error(tmp_path, paths):
    (tmp_path / "empty").mkdir()

    with pytest.raises(InputError):
        gather([tmp_path / path for path in paths])


def test_rows_do_not_depend_on_where_the_folder_lies(tmp_path):
    replace(ORACLE, noise=0.1).write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "c")

    assert gather([tmp_path / "a"]) == gather([Path(tmp_path / "b" / "c")])
