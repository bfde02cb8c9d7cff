"""Runs that another local queue has: of another state folder, or of another machine that shares the runs folder."""

import os
import shutil
import socket
import time

import pytest
from test_local_queue import Bench

from hpcpar import records
from hpcpar.cli import main
from hpcpar.control import elsewhere, local_queue
from hpcpar.control.cancel import under_way
from hpcpar.control.reconcile import reconcile
from hpcpar.control.status import get_status
from hpcpar.records import Event
from hpcpar.runs import BatchLine
from hpcpar.spec import Submission

LONG_AGO = time.time() - 100 * 24 * 3600


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A study with one run in another queue, seen from a shell with a state folder of its own."""
    bench = Bench(tmp_path)
    monkeypatch.setenv("HPCPAR_STATE", str(tmp_path / "their-state"))
    bench.batch("a", [0], begun=time.time())
    bench.queue = local_queue.folder()
    get_status([bench.study])  # as submit does: the run says which queue has it
    monkeypatch.setenv("HPCPAR_STATE", str(tmp_path / "my-state"))
    (bench.run,) = bench.study.runs()
    return bench


def begin(bench, kind="start"):
    path = bench.run.events_path("local-a.0")
    records.append(path, Event(time=time.time(), kind=kind, data={"code": 1}))
    return path


def row_of(bench):
    (row,) = get_status([bench.study]).rows
    return row


def age(*paths):
    for path in paths:
        os.utime(path, (LONG_AGO, LONG_AGO))


def make_old(bench):
    """Say of the submission that it was long ago."""
    line = bench.run.submissions()[0]
    bench.run.submission_path.unlink()
    fields = {name: getattr(line, name) for name in line.__struct_fields__}
    bench.run.add_submission(Submission(**{**fields, "time": LONG_AGO}))


# ---------------------------------------------------------------- what it is at


def test_the_submission_says_which_queue_has_it(theirs):
    assert theirs.run.submissions()[0].queue == str(theirs.queue)


@pytest.mark.parametrize("visible", [True, False], ids=["its folder is visible", "its folder is not"])
def test_a_run_that_waits_in_another_queue_is_queued_there(theirs, visible):
    if not visible:
        shutil.rmtree(theirs.queue.parent)
    row = row_of(theirs)
    assert row.state == "queued"
    state = theirs.queue.parent.parent
    assert row.note == f"in the local queue of {socket.gethostname()} (HPCPAR_STATE={state})"


@pytest.mark.parametrize("visible", [True, False], ids=["its folder is visible", "its folder is not"])
def test_a_run_that_began_in_another_queue_runs_there(theirs, visible):
    begin(theirs)
    if not visible:
        shutil.rmtree(theirs.queue.parent)
    row = row_of(theirs)
    assert (row.state, "in the local queue of" in row.note) == ("running", True)


def test_a_run_that_another_queue_still_holds_may_wait_as_long_as_it_takes(theirs):
    age(begin(theirs))
    make_old(theirs)
    assert row_of(theirs).state == "running"


def test_a_run_that_ended_in_another_queue_is_judged_by_its_own_words(theirs):
    begin(theirs)
    begin(theirs, "script_exit")
    row = row_of(theirs)
    assert (row.state, row.cause) == ("failed", "vanished")
    assert "without a result (exit code 1)" in row.note


def test_a_run_that_its_queue_holds_no_more_vanished_once_it_is_silent(theirs):
    (entry,) = theirs.queue.glob("*.json")
    entry.unlink()
    path = begin(theirs)
    assert row_of(theirs).state == "running", "what another machine wrote may not be visible yet"
    make_old(theirs)
    age(path)
    row = row_of(theirs)
    assert (row.state, row.cause) == ("failed", "vanished")
    assert "it was in the local queue of" in row.note


@pytest.mark.parametrize("begun", [True, False])
def test_where_nobody_can_look_into_its_queue_a_run_is_given_up_after_its_limit(theirs, begun):
    if begun:
        age(begin(theirs))
    make_old(theirs)
    shutil.rmtree(theirs.queue.parent)
    assert row_of(theirs).cause == "vanished"


def test_no_warning_says_that_my_queue_has_stopped(theirs):
    assert get_status([theirs.study]).trouble == []


def test_a_run_of_an_older_version_that_my_queue_does_not_list_vanished(theirs):
    line = theirs.run.submissions()[0]
    theirs.run.submission_path.unlink()
    theirs.run.add_submission(Submission(time=line.time, batch="a", scheduler="local", job_id="local-a"))
    assert row_of(theirs).cause == "vanished"


def test_my_own_queue_under_another_name_is_mine(theirs, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(local_queue.folder().parent.parent)
    assert elsewhere.is_mine(str(link / "local-queue" / socket.gethostname()))
    assert not elsewhere.is_mine(str(theirs.queue))


# ---------------------------------------------------------------- submit and cancel


def test_a_run_of_another_queue_is_under_way_and_not_cancelled_from_here(theirs, capsys):
    begin(theirs)
    assert [run.path for run in under_way([theirs.run])[0]] == [theirs.run.path]
    before = theirs.run.submission_path.read_bytes()
    for words in ([], ["--dry-run"]):
        assert main(["cancel", str(theirs.run.path), *words]) == 2
        said = capsys.readouterr().err
        assert f"{theirs.run.path.name}: belongs to the local queue of {socket.gethostname()}" in said
        assert "cancel it there" in said
    assert theirs.run.submission_path.read_bytes() == before


def test_submit_leaves_out_what_another_queue_runs(tmp_path, monkeypatch, capsys):
    words = ["submit", "--cluster", "local", "--workload", "clockwork", "--strategy", "clockwork", "--nodes", "1"]
    words += ["--steps", "2", "--no-gate", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(local_queue, "start", lambda: None)
    monkeypatch.setenv("HPCPAR_STATE", str(tmp_path / "their-state"))
    assert main(words) == 0
    monkeypatch.setenv("HPCPAR_STATE", str(tmp_path / "my-state"))
    capsys.readouterr()
    assert main(words) == 0
    assert "0 runs in 0 batches submitted; left out: 1 queued" in capsys.readouterr().err


def test_a_queue_passes_over_what_another_one_was_given_since(theirs, monkeypatch):
    """Where a run was given up too early, it is not started a second time when its first queue goes on."""
    later = Submission(time=time.time() + 1, batch="b", scheduler="local", job_id="local-b", queue="/elsewhere/h")
    theirs.run.add_submission(later)
    monkeypatch.setenv("HPCPAR_STATE", str(theirs.queue.parent.parent))
    assert local_queue.drain() == 0
    assert theirs.ran() == []


# ---------------------------------------------------------------- interrupted submissions


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A submit to another queue that was killed before its answer."""
    bench = Bench(tmp_path)
    bench.queue = tmp_path / "their-state" / "local-queue" / "h"
    batch = bench.study.batch("a")
    batch.create("", [bench.run(0)])
    fields = {"time": time.time() - 3600, "scheduler": "local", "queue": str(bench.queue), "host": "h"}
    batch.journal(BatchLine(kind="intent", **fields))
    bench.a = batch
    return bench


def test_what_another_queue_may_hold_is_not_given_up(interrupted):
    reconcile([interrupted.study])
    assert interrupted.a.read().refused is None


def test_what_another_queue_holds_is_adopted(interrupted):
    interrupted.queue.mkdir(parents=True)
    (interrupted.queue / "1-a.json").write_text("{}")
    reconcile([interrupted.study])
    assert interrupted.a.read().accepted.queue == str(interrupted.queue)


def test_what_another_queue_does_not_hold_never_reached_it(interrupted):
    interrupted.queue.mkdir(parents=True)
    reconcile([interrupted.study])
    assert interrupted.a.read().refused is not None
