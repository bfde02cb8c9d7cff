"""Kept rows and other processes: the same rows as reading everything again, whatever lies where the cache should."""

import os
import shutil
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records_oracle import Oracle, Truth, change_record

from hpcpar.analysis.rows import cache, reducers
from hpcpar.analysis.rows.gather import gather
from hpcpar.inventory import SETTLED_NS, list_runs
from hpcpar.runs import StudyFolder

ORACLE = Oracle(truths={"ddp": Truth(0.01, 0.002), "pp": Truth(0.02, 0.002)}, repeats=2, steps=30, noise=0.1)
NUM_RUNS = 12


@pytest.fixture(autouse=True)
def every_study_has_a_cache(monkeypatch):
    monkeypatch.setattr(cache, "CACHE_FROM", 1)


@pytest.fixture
def reads(monkeypatch):
    """The runs that were really read."""
    seen = []
    true = reducers.reduce_run

    def noting(folder, *options):
        seen.append(folder.path.name)
        return true(folder, *options)

    monkeypatch.setattr(reducers, "reduce_run", noting)
    return seen


@pytest.fixture
def later(monkeypatch):
    """A clock on which everything written so far was settled long ago."""
    true = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: true() + 100 * SETTLED_NS)


def fresh(tree):
    """What is read where there is no cache at all."""
    (tree / "oracle" / ".rows").unlink(missing_ok=True)
    return gather([tree])


def test_what_has_not_changed_is_not_read_again(tmp_path, reads, later):
    ORACLE.write(tmp_path)
    first = gather([tmp_path])
    del reads[:]

    assert gather([tmp_path]) == first
    assert reads == []


def test_what_has_changed_is_read_again_and_nothing_else(tmp_path, reads, later):
    runs = ORACLE.write(tmp_path)
    gather([tmp_path])
    del reads[:]
    change_record(runs[3], oversubscribed=True)

    found = gather([tmp_path])

    assert reads == [runs[3].path.name]
    assert found == fresh(tmp_path)


@pytest.mark.parametrize(
    "name", ["steps.1.0.jsonl", "events.1.0.jsonl", "submission.jsonl", "spec.json", "record.json"]
)
@pytest.mark.parametrize("how", ["append", "same size", "remove"])
def test_every_file_of_a_run_counts(tmp_path, later, name, how):
    runs = ORACLE.write(tmp_path)
    gather([tmp_path])
    path = runs[0].path / name
    content = path.read_bytes()
    if how == "append":
        path.write_bytes(content + b"{torn")
    elif how == "same size":
        path.write_bytes(content.replace(b"1", b"2"))
    else:
        path.unlink()

    assert gather([tmp_path]) == fresh(tmp_path)


def test_a_run_that_changed_a_moment_ago_is_not_kept(tmp_path, reads):
    ORACLE.write(tmp_path)
    gather([tmp_path])
    del reads[:]

    gather([tmp_path])

    assert len(reads) == NUM_RUNS


def test_new_runs_and_runs_that_are_gone(tmp_path, later):
    runs = ORACLE.write(tmp_path)
    gather([tmp_path])
    shutil.rmtree(runs[0].path)
    replace(ORACLE, repeats=3).write(tmp_path)

    assert gather([tmp_path]) == fresh(tmp_path)


def test_other_options_find_no_rows_of_the_first(tmp_path, later):
    ORACLE.write(tmp_path)
    gather([tmp_path])

    for options in ({"warmup_steps": 3}, {"target_loss": 0.5}):
        cached = gather([tmp_path], **options)
        (tmp_path / "oracle" / ".rows").unlink()
        assert cached == gather([tmp_path], **options)


def test_other_code_finds_no_rows(tmp_path, reads, later, monkeypatch):
    ORACLE.write(tmp_path)
    gather([tmp_path])
    del reads[:]
    monkeypatch.setattr(cache, "_code", lambda: "another")

    gather([tmp_path])

    assert len(reads) == NUM_RUNS


def test_a_renamed_study_is_read_again(tmp_path, later):
    runs = ORACLE.write(tmp_path)
    runs[0].spec_path.write_bytes(b"{")  # its row knows the study by the folder alone
    gather([tmp_path])
    (tmp_path / "oracle").rename(tmp_path / "renamed")

    assert {row.study for row in gather([tmp_path]).rows if not row.usable} == {"renamed"}


def test_a_copied_folder_is_read_again(tmp_path, reads, later):
    ORACLE.write(tmp_path / "here")
    first = gather([tmp_path / "here"])
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    del reads[:]

    assert gather([tmp_path / "there"]) == first
    assert len(reads) == NUM_RUNS


def test_the_cache_of_somebody_else_is_not_trusted(tmp_path, reads, later, monkeypatch):
    ORACLE.write(tmp_path)
    gather([tmp_path])
    del reads[:]
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    gather([tmp_path])

    assert len(reads) == NUM_RUNS


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_cache_is_never_trusted_and_never_an_exception(damaged, data):
    tree, truth, content = damaged
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(1, 255))
    harmed = data.draw(
        st.sampled_from(
            [
                content[:place],
                content[:place] + bytes([content[place] ^ byte]) + content[place + 1 :],
                content[place:],
                content + b"\0",
                bytes(len(content)),
                content[:32],
                b"",
            ]
        )
    )
    (tree / "oracle" / ".rows").write_bytes(harmed)

    assert gather([tree]) == truth


@pytest.fixture
def damaged(tmp_path, later):
    ORACLE.write(tmp_path)
    truth = gather([tmp_path])
    return tmp_path, truth, (tmp_path / "oracle" / ".rows").read_bytes()


@pytest.fixture
def few_changed(tmp_path, later, monkeypatch):
    """A study whose .rows is older than one of its runs, which lies in .rows-changed."""
    monkeypatch.setattr(cache, "FEW", 0.2)
    runs = ORACLE.write(tmp_path)
    gather([tmp_path])
    written = (tmp_path / "oracle" / ".rows").read_bytes()
    change_record(runs[3], oversubscribed=True)
    truth = gather([tmp_path])
    assert (tmp_path / "oracle" / ".rows").read_bytes() == written
    return tmp_path / "oracle", runs, truth


def test_what_few_changes_cost_is_kept_apart(few_changed, reads):
    study, runs, truth = few_changed

    assert gather([study]) == truth
    assert reads == []
    for number in (4, 5):  # three of twelve are no longer few
        change_record(runs[number], oversubscribed=True)
    before = (study / ".rows").read_bytes()
    changed = gather([study])
    assert reads == [runs[4].path.name, runs[5].path.name]
    assert (study / ".rows").read_bytes() != before
    del reads[:]
    assert gather([study]) == changed  # .rows-changed still lies there, and belongs to the .rows before
    assert reads == []


@pytest.mark.parametrize("harm", [lambda content: content[:-1], lambda content: bytes(len(content)), lambda _: b""])
def test_damage_to_what_changed_costs_only_that(few_changed, reads, harm):
    study, runs, truth = few_changed
    path = study / ".rows-changed"
    path.write_bytes(harm(path.read_bytes()))

    assert gather([study]) == truth
    assert reads == [runs[3].path.name]


@pytest.mark.parametrize("what", ["folder", "pipe", "dangling link", "whole digest of nonsense"])
def test_anything_may_lie_where_the_cache_should(tmp_path, later, what):
    ORACLE.write(tmp_path)
    truth = gather([tmp_path])
    place = tmp_path / "oracle" / ".rows"
    place.unlink()
    if what == "folder":
        place.mkdir()
    elif what == "pipe":
        os.mkfifo(place)
    elif what == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        payload = b"\x81\xa4code\xa1x"
        place.write_bytes(cache._DIGEST(payload).digest() + payload)

    assert gather([tmp_path]) == truth
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_takes_no_file_is_read_all_the_same(tmp_path, later, monkeypatch):
    from hpcpar.errors import StorageError

    def refusing(path, content, **options):
        raise StorageError(path, OSError("read-only"))

    ORACLE.write(tmp_path)
    monkeypatch.setattr(cache, "write_file", refusing)

    assert len(gather([tmp_path]).rows) == NUM_RUNS
    assert not (tmp_path / "oracle" / ".rows").exists()


def test_small_studies_get_no_cache(tmp_path, later, monkeypatch):
    monkeypatch.setattr(cache, "CACHE_FROM", NUM_RUNS + 1)
    ORACLE.write(tmp_path)

    gather([tmp_path])

    assert not (tmp_path / "oracle" / ".rows").exists()


def test_names_that_are_not_utf8_are_escaped(tmp_path, later):
    ORACLE.write(tmp_path)
    folder = tmp_path / "oracle" / os.fsdecode(b"bad\xff")
    folder.mkdir()
    (folder / "spec.json").write_text("{")

    for _ in range(2):
        assert [row.run for row in gather([tmp_path]).rows if not row.usable] == ["bad\\udcff"]


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes_gives_the_same_rows(tmp_path, reads, monkeypatch, workers):
    ORACLE.write(tmp_path)
    alone = gather([tmp_path], 5, 0.2)
    monkeypatch.setattr(reducers, "PARALLEL_FROM", 1)
    monkeypatch.setattr(reducers, "num_workers", lambda: workers)
    del reads[:]

    assert gather([tmp_path], 5, 0.2) == alone
    assert len(reads) == NUM_RUNS / workers  # in this process; the rest in others


def test_where_no_process_can_be_had_the_rows_are_the_same(tmp_path, monkeypatch):
    ORACLE.write(tmp_path)
    alone = gather([tmp_path])
    monkeypatch.setattr(reducers, "PARALLEL_FROM", 1)
    monkeypatch.setattr(reducers, "num_workers", lambda: 2)
    monkeypatch.setattr(reducers.sys, "executable", str(tmp_path / "no-python"))

    assert gather([tmp_path]) == alone


def test_listing_leaves_out_what_is_no_run(tmp_path):
    ORACLE.write(tmp_path)
    study = StudyFolder(tmp_path / "oracle")
    (study.path / "report").mkdir()
    (study.path / "report" / "runs.csv").touch()
    (study.path / ".hidden").mkdir()
    (study.path / ".hidden" / "spec.json").touch()
    (study.path / "link").symlink_to(study.runs()[0].path)

    assert [run.name for run in list_runs(study)] == [run.path.name for run in study.runs()]
