"""One folder that cannot be written stops neither `status` nor `collect`, and nothing is sent twice because of it."""

import errno
import time

import pytest
from test_local_queue import Bench

from hpcpar.cli import main
from hpcpar.control import local_queue
from hpcpar.control.reconcile import reconcile
from hpcpar.control.status import get_status
from hpcpar.errors import StorageError
from hpcpar.runs import BatchFolder, BatchLine


@pytest.fixture
def bench(tmp_path):
    """A study of two runs that were accepted and not noted; the first takes no line."""
    bench = Bench(tmp_path)
    batch = bench.batch("a", [0, 1])
    bench.closed, bench.open = (bench.study.run(batch.read().runs[index]) for index in (0, 1))
    bench.closed.submission_path.mkdir()
    return bench


def test_a_run_that_takes_no_line_is_named_and_the_others_are_noted(bench):
    status = get_status([bench.study])
    assert [line.batch for line in bench.open.submissions()] == ["a"]
    assert any(f"the submission of {bench.closed.path.name} cannot be noted: " in text for text in status.trouble)
    rows = {row.run: row for row in status.rows}
    assert rows[bench.closed.path.name].note == "it was submitted, which cannot be noted in its folder"
    assert {row.state for row in status.rows} == {"queued"}, "both are under way: a submit must leave them out"


def test_status_and_collect_of_another_study_are_not_stopped(bench, tmp_path, capsys):
    other = Bench(tmp_path, "other")
    other.batch("b", [2], begun=2.0)
    (name,) = (run.path.name for run in other.study.runs())
    runs = str(bench.study.path.parent)
    assert main(["status", runs]) == 0
    said = capsys.readouterr()
    assert name in said.out
    assert "cannot be noted" in said.err
    assert main(["collect", runs]) in (0, 1)
    said = capsys.readouterr()
    assert name in said.out
    assert "cannot be noted" in said.err
    assert "--runs DIR" not in said.err


def test_a_run_that_may_not_be_read_is_said_to_be_unreadable(bench):
    bench.closed.spec_path.unlink()  # a stand-in for a folder without rights: root reads everything
    status = get_status([bench.study])
    assert status.unreadable == [f"{bench.study.name}/{bench.closed.path.name}"]
    assert [row.run for row in status.rows] == [bench.open.path.name]


@pytest.fixture
def lost(tmp_path, monkeypatch):
    """A submission whose answer was lost, in a batch folder that takes no line any more."""
    bench = Bench(tmp_path)
    bench.a = bench.study.batch("a")
    bench.a.create("", [bench.run(0)])
    bench.a.journal(BatchLine(kind="intent", time=time.time(), scheduler="local", queue=str(local_queue.folder())))

    def refuse(self, _):
        raise StorageError(self.manifest_path, PermissionError(errno.EACCES, "Permission denied"))

    monkeypatch.setattr(BatchFolder, "journal", refuse)
    return bench


def test_a_lost_submission_that_cannot_be_given_up_is_a_warning(lost):
    known = reconcile([lost.study])
    assert known.trouble == [
        f"what became of batch {lost.study.name}/a (it never reached the scheduler) cannot be noted: "
        "cannot write: Permission denied"
    ]


def test_a_lost_submission_is_noted_in_its_runs_even_where_its_batch_takes_no_line(lost):
    local_queue.enqueue(lost.a)
    known = reconcile([lost.study])
    assert "(job local-a) cannot be noted: " in known.trouble[0]
    (run,) = lost.study.runs()
    assert [line.job_id for line in run.submissions()] == ["local-a"]
    assert get_status([lost.study]).rows[0].state == "queued"
