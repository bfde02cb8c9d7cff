"""What became of a run: the run's own words, the scheduler's, and who is believed when they differ."""

import os
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records_oracle import change_record, ideal, refuse

from hpcpar import records, runs
from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.cli import main
from hpcpar.control.again.resubmit import choose, look
from hpcpar.control.status import get_status
from hpcpar.outcome import SCHEDULER_CAUSES, Live, decide
from hpcpar.records import Cause, Event
from hpcpar.runs import RunFolder, StudyFolder
from hpcpar.spec import Submission

ATTEMPT = "7_0.0"


class Story:
    """A run folder, written event by event."""

    def __init__(self, path):
        oracle = ideal(nodes=(1,), repeats=1, never_ran=frozenset({("ddp", 1, 1)}))
        self.folder = oracle.write_run(path, "ddp", 1, 1)
        self._oracle, self._time = oracle, 1_000.0

    def _tick(self):
        self._time += 10
        return self._time

    def submitted(self, job_id="7_0"):
        line = Submission(time=self._tick(), batch="b", scheduler="slurm", job_id=job_id)
        records.append(self.folder.submission_path, line)
        return self

    def ended(self, state, job_id="7_0", exit_code="0:0"):
        line = Submission(
            kind="ended",
            time=self._tick(),
            batch="b",
            scheduler="slurm",
            job_id=job_id,
            state=state,
            exit_code=exit_code,
        )
        records.append(self.folder.submission_path, line)
        return self

    def event(self, kind, attempt=ATTEMPT, rank=0, **data: Any):
        path = self.folder.rank_events_path(attempt, rank) if rank else self.folder.events_path(attempt)
        records.append(path, Event(time=self._tick(), kind=kind, rank=rank, host=f"n{rank}", data=data))
        return self

    def record(self, attempt=ATTEMPT, **changes):
        records_of = self._oracle.record(self.folder.spec(), attempt, self._tick())
        runs.write_file(self.folder.record_path, msgspec.json.encode(records_of))
        if changes:
            change_record(self.folder, **changes)
        return self

    def outcome(self, live=None):
        return decide(self.folder, live)


@pytest.fixture
def story(tmp_path):
    return Story(tmp_path)


def state_and_cause(outcome):
    return outcome.state, outcome.cause


# ---------------------------------------------------------------- the decision table


def test_planned(story):
    assert state_and_cause(story.outcome()) == ("planned", None)


def test_submitted_while_the_scheduler_was_not_asked(story):
    found = story.submitted().outcome()
    assert (found.state, found.message) == ("submitted", "the scheduler was not asked")


def test_running_while_the_scheduler_was_not_asked(story):
    found = story.submitted().event("start").outcome()
    assert (found.state, found.message) == ("running", "the scheduler was not asked")


def test_queued_says_why(story):
    found = story.submitted().outcome(Live("queued", reason="jobs before it"))
    assert (found.state, found.message) == ("queued", "jobs before it")


def test_running(story):
    assert story.submitted().event("start").outcome(Live("running")).state == "running"


def test_a_record_is_the_result_whatever_the_scheduler_says(story):
    story.submitted().event("start").record().ended("NODE_FAIL")
    assert state_and_cause(story.outcome(Live("running"))) == ("done", Cause.OK)


def test_a_record_of_a_failure_is_a_failure(story):
    assert state_and_cause(story.submitted().record(cause=Cause.DATA).outcome()) == ("failed", Cause.DATA)


def test_a_rank_that_raised_is_the_cause_and_the_lost_connections_of_its_peers_are_the_echo(story):
    story.submitted().event("start")
    story.event("error", rank=1, cause="network", message="connection closed", echo=True)
    story.event("error", rank=2, cause="python_error", message="KeyError: 'x'")
    found = story.event("script_exit", code=1).ended("FAILED", exit_code="1:0").outcome()
    assert state_and_cause(found) == ("failed", Cause.PYTHON_ERROR)
    assert "rank 2 on n2: KeyError: 'x'" in found.message


@pytest.mark.parametrize(("state", "cause"), SCHEDULER_CAUSES.items())
def test_where_all_ranks_only_lost_their_connection_the_scheduler_says_why(story, state, cause):
    story.submitted().event("start")
    story.event("error", rank=1, cause="network", message="connection closed", echo=True)
    assert story.ended(state).outcome().cause == cause


def test_an_error_of_its_own_is_believed_before_the_scheduler(story):
    story.submitted().event("start").event("error", cause="oom_device", message="out of memory")
    assert story.event("script_exit", code=1).ended("CANCELLED").outcome().cause == Cause.OOM_DEVICE


def test_a_lost_connection_that_nobody_explains_is_the_network(story):
    story.submitted().event("start").event("error", cause="network", message="reset")
    assert story.event("script_exit", code=1).outcome().cause == Cause.NETWORK


def test_a_killed_rank_leaves_its_signal_in_the_exit_code(story):
    found = story.submitted().event("start").event("script_exit", code=137).outcome()
    assert state_and_cause(found) == ("failed", Cause.KILLED)
    assert "signal 9" in found.message


def test_the_echo_of_a_killed_rank_is_not_its_cause(story):
    story.submitted().event("start").event("error", rank=1, cause="network", message="reset", echo=True)
    assert story.event("script_exit", code=137).outcome().cause == Cause.KILLED


def test_the_local_time_limit(story):
    story.submitted().event("start").event("error", cause="killed", message="SIGTERM")
    assert story.event("script_exit", code=124).outcome().cause == Cause.TIMEOUT


def test_a_job_that_ended_before_any_rank_began_never_launched(story):
    found = story.submitted().event("script_exit", code=127).ended("FAILED", exit_code="127:0").outcome()
    assert found.cause == Cause.LAUNCH
    assert "FAILED 127:0" in found.message


def test_a_job_that_left_nothing_at_all_never_launched(story):
    assert story.submitted().ended("FAILED", exit_code="1:0").outcome().cause == Cause.LAUNCH


def test_a_job_that_the_scheduler_lost_before_it_began_vanished(story):
    found = story.submitted().ended("").outcome()
    assert state_and_cause(found) == ("failed", Cause.VANISHED)
    assert found.message == "it began nothing, and the scheduler does not know it any more"


def test_a_job_that_ended_well_without_a_result_vanished(story):
    assert story.submitted().event("start").event("script_exit", code=0).outcome().cause == Cause.VANISHED


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (b'{"schema": 99}', "done"),
        (b'{"schema": 99, "cause": "ok", "ranks": 3}', "done"),
        (b'{"schema": 99, "cause": "hung"}', "failed"),
        (b'{"schema": 99, "cause": "new_word"}', "failed"),
    ],
)
def test_a_result_of_a_newer_version_is_said_to_be_one(story, content, state):
    story.submitted().event("start").event("script_exit", code=0)
    story.folder.record_path.write_bytes(content)
    outcome = story.outcome()
    assert outcome.state == state
    assert outcome.message == "record.json is of a newer version (schema 99, this one reads 1): update hpcpar"
    assert (outcome.cause == Cause.HUNG) == (b"hung" in content)


@pytest.mark.parametrize("content", [b'{"schema": 1}', b"{", b"\0" * 64])
def test_a_result_that_cannot_be_read_is_not_called_vanished(story, content):
    story.submitted().event("start").event("script_exit", code=0)
    story.folder.record_path.write_bytes(content)
    outcome = story.outcome()
    assert state_and_cause(outcome) == ("failed", Cause.DATA)
    assert outcome.message == "record.json is damaged"


def test_a_result_that_may_not_be_read_is_no_failure_and_not_computed_again(story, monkeypatch):
    story.submitted().event("start").record().event("script_exit", code=0)
    refuse(monkeypatch, story.folder.record_path)
    outcome = story.outcome(Live("gone"))
    assert state_and_cause(outcome) == ("unreadable", None)
    assert outcome.message == "record.json cannot be read: Permission denied"
    status = get_status([StudyFolder(story.folder.path.parent)])
    assert status.counts == {"unreadable": 1}
    assert status.rows[0].elapsed_s is None
    assert status.finished
    assert main(["status", str(story.folder.path)]) == 1
    assert choose(look([story.folder])[0]) == []


def test_a_later_job_goes_on_whatever_may_not_be_read(story, monkeypatch):
    story.submitted().event("start").record().submitted("8")
    refuse(monkeypatch, story.folder.record_path)
    assert story.outcome(Live("running")).state == "running"


@pytest.mark.parametrize("last_word", [True, False], ids=["it said that it ended", "it did not"])
def test_the_result_of_another_run_is_none(story, last_word):
    story.submitted().event("start").record(key="0123456789")
    if last_word:
        story.event("script_exit", code=0)
    outcome = story.outcome()
    assert state_and_cause(outcome) == ("failed", Cause.DATA)
    assert outcome.message == "record.json belongs to another run (0123456789)"
    row = reduce_run(story.folder)
    assert (row.state, row.cause, row.message) == ("failed", "data", outcome.message)


def test_what_a_rank_said_of_itself_is_believed_beside_the_result_of_another_run(story):
    story.submitted().event("error", cause="oom_host", message="no memory").record(key="0123456789")
    assert story.event("script_exit", code=1).outcome().cause == Cause.OOM_HOST


def test_a_later_job_is_asked_for_where_the_earlier_result_is_damaged(story, commands):
    story.submitted().event("start").event("script_exit", code=0)
    story.folder.record_path.write_bytes(b"{")
    story.submitted("8")
    commands.write("squeue", r"printf '8|N/A|RUNNING|0:01|N/A|n1|n|n1\n'")
    (row,) = get_status([StudyFolder(story.folder.path.parent)]).rows
    assert row.state == "running"


@pytest.mark.parametrize("times", [{"started": 1e9, "ended": 1.0}, {"ended": 1e300}, {"started": -1e9}])
def test_of_times_that_no_clock_showed_there_is_no_duration(story, times, capsys):
    story.submitted().event("start").record(**times)
    study = StudyFolder(story.folder.path.parent)
    (row,) = get_status([study]).rows
    assert (row.state, row.elapsed_s) == ("done", None)
    assert main(["status", str(study.path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if row.run in line]
    assert line.split()[-1] == "-"


def test_a_start_in_the_future_is_no_negative_duration(story, commands):
    story.submitted()
    records.append(story.folder.events_path(ATTEMPT), Event(time=time.time() + 1e6, kind="start"))
    (row,) = get_status([StudyFolder(story.folder.path.parent)]).rows
    assert (row.state, row.elapsed_s) == ("running", None)


def test_a_run_that_nobody_knows_any_more_vanished(story):
    found = story.submitted().event("start").outcome(Live("gone"))
    assert state_and_cause(found) == ("failed", Cause.VANISHED)


def test_a_job_whose_nodes_are_being_cleaned_is_not_over(story):
    assert story.submitted().event("start").outcome(Live("ending")).state == "running"


def test_a_signal_waits_for_the_schedulers_word(story):
    story.submitted().event("start").event("script_exit", code=137)
    assert story.outcome(Live("ending")).state == "running"
    assert story.ended("OUT_OF_MEMORY").outcome().cause == Cause.OOM_HOST


# ---------------------------------------------------------------- several attempts


def test_a_requeued_run_waits_and_what_its_first_attempt_left_is_history(story):
    story.submitted().event("start").event("error", cause="killed", message="SIGTERM").event("script_exit", code=143)
    assert story.outcome(Live("queued", reason="requeued")).state == "queued"


def test_a_requeued_run_is_judged_by_its_last_attempt(story):
    story.submitted().event("start").event("error", cause="python_error", message="first")
    story.event("script_exit", code=1)
    story.event("start", attempt="7_0.1").event("script_exit", attempt="7_0.1", code=137)
    found = story.outcome()
    assert (found.cause, found.attempt, found.num_attempts) == (Cause.KILLED, "7_0.1", 2)


def test_a_later_submission_puts_an_earlier_failure_behind(story):
    story.submitted().event("start").event("script_exit", code=1).ended("FAILED")
    found = story.submitted("8").outcome()
    assert (found.state, found.started) == ("submitted", None)


def test_a_failure_of_an_earlier_job_is_not_that_of_the_next(story):
    story.submitted().ended("NODE_FAIL").submitted("8")
    assert story.outcome(Live("gone")).cause == Cause.VANISHED


def test_a_result_stands_until_a_later_submission_is_known_to_be_on_its_way(story):
    story.submitted().event("start").record(ended=1_040.0, job_id="7_0").submitted("8").submitted("9")
    assert story.outcome(Live("queued")).state == "queued"
    assert story.outcome(Live("gone")).state == "done"


def test_events_of_ranks_are_merged_in_order_of_time(story):
    story.event("error", rank=2, cause="network").event("error", rank=1, cause="network").event("start")
    assert [event.rank for event in story.folder.events(ATTEMPT).records] == [2, 1, 0]


# ---------------------------------------------------------------- damage

FILES = ["spec.json", "submission.jsonl", f"events.{ATTEMPT}.jsonl", "events.8.0.jsonl",
         f"failed-rank.{ATTEMPT}.1.jsonl", f"steps.{ATTEMPT}.jsonl", "record.json"]  # fmt: skip
LINES = [
    b'{"time":1.0,"kind":"start"}', b'{"time":2.0,"kind":"error","data":{"cause":"network"}}',
    b'{"time":3.0,"kind":"script_exit","data":{"code":137}}', b'{"time":3,"kind":"script_exit","data":{"code":[1]}}',
    b'{"time":1e300,"kind":"exit","data":{"cause":{"a":1}}}', b'{"time":-1,"kind":"script_exit","data":{"code":true}}',
    b'{"step":1,"time_s":1,"time_min_s":1,"time_mean_s":1,"slowest":0}', b'{"kind":"submitted","time":1,"batch":"b",'
    b'"scheduler":"slurm","job_id":"7_0"}', b'{"kind":"ended","time":1,"batch":"b","scheduler":"x","job_id":"8"}',
    b'{"time":', b"\0\0\0", b"[" * 5000, b"\xff\xfe", b'"text"', b"null", b"1e999", b"{}",
    b'{"time":1,"kind":"\\ud800"}',
]  # fmt: skip
content = st.lists(st.sampled_from(LINES) | st.binary(max_size=20), max_size=6).map(b"\n".join)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(FILES), content))
def test_no_damage_to_the_files_of_a_run_is_an_exception(tmp_path_factory, files):
    folder = Story(tmp_path_factory.mktemp("damage")).folder
    for name, damage in files.items():
        (folder.path / name).write_bytes(damage)
    for live in (None, Live("gone"), Live("ending"), Live("queued"), Live("running")):
        assert decide(folder, live).state in ("planned", "submitted", "queued", "running", "done", "failed")
    assert folder.last_step(ATTEMPT) >= 0


HOSTILE_NAMES = [
    b"events.**.jsonl", b"events.[a.jsonl", b"events.*.jsonl", b"events..jsonl", b"events.\xff.jsonl",
    b"events.a\nb.jsonl", b"events.\x1b[31m.jsonl", b"events.7_0.jsonl", b"events.-1.jsonl",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_file_name_in_a_copied_run_folder_is_an_exception(story, name):
    with open(os.path.join(os.fsencode(story.folder.path), name), "wb") as file:  # noqa: PTH118, PTH123 - bytes
        file.write(LINES[0] + b"\n")
    assert story.outcome().state in ("running", "failed", "planned")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_not_an_exception(story, name):
    story.submitted().event("start").record()
    path = story.folder.path / name
    path.unlink(missing_ok=True)
    path.mkdir()
    assert story.outcome().state


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["record.json", "spec.json", "submission.jsonl", f"events.{ATTEMPT}.jsonl"])
def test_a_pipe_in_the_place_of_a_file_does_not_hang_the_reader(tmp_path, story, name):
    path = story.folder.path / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert get_status([StudyFolder(story.folder.path.parent)]).rows is not None


def test_damaged_lines_are_counted(story):
    story.event("start")
    with story.folder.events_path(ATTEMPT).open("ab") as file:
        file.write(b'{"time":\nnonsense\n')
    assert story.outcome().rejected == 2


def test_a_run_without_a_readable_spec_is_not_a_run_but_no_exception(tmp_path):
    path = tmp_path / "study" / "x-r1"
    path.mkdir(parents=True)
    (path / "spec.json").write_bytes(b"{}")
    assert RunFolder(path).spec() is None
    assert get_status([StudyFolder(path.parent)]).rows == []
