"""What Slurm answers is read without a surprise: recorded lines, arbitrary text, clean environments, calls of 200."""

import contextlib
import os
import stat
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcpar.control import reconcile, slurm
from hpcpar.control.pending import in_words
from hpcpar.control.slurm import parse_sacct, parse_squeue, parse_tasks
from hpcpar.errors import NoSchedulerError, SchedulerError, UnansweredError
from hpcpar.outcome import SCHEDULER_CAUSES, decide
from hpcpar.outer_job import clean_environment
from hpcpar.records import Cause
from hpcpar.runs import RunFolder
from hpcpar.spec import Submission

# ---------------------------------------------------------------- recorded lines


def test_a_pending_array_with_gaps_and_a_throttle():
    (row,) = parse_squeue("123|[0-7,9%2]|PENDING|0:00|N/A|(Priority)|name|\n")
    assert row == slurm.QueueRow(
        "123", frozenset({0, 1, 2, 3, 4, 5, 6, 7, 9}), "PENDING", "0:00", "N/A", "(Priority)", "name", ""
    )


def test_a_running_task_of_an_array():
    (row,) = parse_squeue("123|8|RUNNING|1:02|N/A|n[1-2]|hpcpar-s-abc|n[1-2]\n")
    assert (row.tasks, row.state, row.nodes) == (frozenset({8}), "RUNNING", "n[1-2]")


def test_a_job_that_is_no_array():
    (row,) = parse_squeue("124|N/A|RUNNING|1-02:03:04|N/A|n1|name|n1\n")
    assert row.tasks is None


def test_bars_in_the_name_of_a_strangers_job_shift_nothing():
    (row,) = parse_squeue("125|N/A|RUNNING|0:01|N/A|n1|a|b|c|n1\n")
    assert (row.name, row.nodes) == ("a|b|c", "n1")


def test_a_cancelled_job_names_who_did_it():
    (row,) = parse_sacct("200_3|CANCELLED by 0|0:0|12|None assigned|name|None\n")
    assert (row.job, row.tasks, row.state, row.elapsed_s) == ("200", frozenset({3}), "CANCELLED", 12.0)


def test_bars_in_a_name_shift_nothing_in_the_accounting():
    (row,) = parse_sacct("201|FAILED|1:0|5|n1|a|b|NonZeroExitCode\n")
    assert (row.name, row.reason) == ("a|b", "NonZeroExitCode")


def test_steps_are_left_out_of_the_accounting():
    assert parse_sacct("202.batch|COMPLETED|0:0|5|n1|batch|\n202.0|COMPLETED|0:0|5|n1|python|\n") == []


def test_the_tasks_that_still_wait_stand_in_one_line_of_the_accounting():
    (row,) = parse_sacct("203_[4-6%1]|PENDING|0:0|0|None assigned|name|None\n")
    assert row.tasks == frozenset({4, 5, 6})


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("3", {3}),
        ("[3]", {3}),
        ("[0-3]", {0, 1, 2, 3}),
        ("[0-6:2]", {0, 2, 4, 6}),
        ("[1,5-6%4]", {1, 5, 6}),
        ("N/A", None),
        ("", None),
        ("[6-5]", None),
    ],
)
def test_task_lists(text, tasks):
    assert parse_tasks(text) == (None if tasks is None else frozenset(tasks))


# ---------------------------------------------------------------- arbitrary text

WORDS = st.sampled_from(
    [
        "|",
        "\n",
        "123",
        "_",
        ".",
        "[",
        "]",
        "-",
        ",",
        "%",
        ":",
        "CANCELLED by 0",
        "PENDING",
        "COMPLETED",
        "0:00",
        "²",
        "٣",
        " ",
    ]
)
noise = st.lists(WORDS | st.text(max_size=4), max_size=30).map("".join)


@given(noise)
@example("²|N/A|RUNNING|0:00|N/A|n1|name|n1")
@example("1|" + "9" * 5000 + "|RUNNING|0:00|N/A|n1|name|n1")
def test_squeues_answer_is_never_an_exception(text):
    assert all(row.job.isascii() and row.job.isdecimal() for row in parse_squeue(text))


@given(noise)
@example("1|FAILED|1:0|²|n1|name|")
@example("²|FAILED|1:0|1|n1|name|")
@example("1_" + "9" * 5000 + "|FAILED|1:0|1|n1|name|")
def test_saccts_answer_is_never_an_exception(text):
    assert all(row.job.isascii() and row.job.isdecimal() for row in parse_sacct(text))


@given(noise)
@example("9" * 5000)
@example("0-9999999999999")
@example("[0-9999999]")
def test_task_lists_are_never_an_exception_nor_larger_than_an_array_can_be(text):
    # slurm.conf(5): MaxArraySize cannot exceed 4000001
    tasks = parse_tasks(text)
    assert tasks is None or max(tasks) <= 4_000_000


@given(noise)
def test_elapsed_times_are_never_an_exception(text):
    seconds = slurm.elapsed_s(text)
    assert seconds is None or seconds >= 0


state_words = st.sampled_from(["COMPLETED", "FAILED", "RUNNING", "LAUNCH_FAILED", "", *SCHEDULER_CAUSES])


@given(state=state_words | st.text(st.characters(codec="utf-8"), max_size=12), code=st.sampled_from(["0:0", "1:0", ""]))
def test_no_word_of_the_scheduler_is_read_as_success(tmp_path_factory, state, code):
    run = RunFolder(tmp_path_factory.mktemp("run"))
    for kind, word in (("submitted", ""), ("ended", state)):
        line = Submission(kind=kind, time=1.0, batch="b", scheduler="slurm", job_id="1", state=word, exit_code=code)
        run.add_submission(line)
    assert decide(run).cause not in (None, Cause.OK)


@given(noise)
@example("Submitted batch job 12")
@example("12;cluster\nsite's farewell")
@example("٣")
@example("9" * 19)
def test_sbatchs_answer_is_a_number_or_counts_as_lost(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm, "_call", lambda *_: text)
        with contextlib.suppress(UnansweredError):
            job_id = slurm.sbatch("job.sh")
            assert job_id.isascii()
            assert job_id.isdecimal()
            assert len(job_id) < 19


@given(noise | st.text(st.characters(codec="utf-8"), max_size=40))
def test_sinfos_states_are_never_an_exception(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm, "_call", lambda *_: text)
        assert all(name in text for name in slurm.unusable_nodes())


@given(noise | st.text(max_size=30))
@example("((,:)")
def test_a_reason_for_waiting_is_never_an_exception_and_never_lost(text):
    code = text.strip().strip("()")
    assert (in_words(text) == "") == (code == "")


# ---------------------------------------------------------------- calls


def test_the_environment_of_an_outer_job_is_left_behind(monkeypatch):
    for name in ("SBATCH_PARTITION", "SLURM_JOB_ID", "SLURM_CONF", "SRUN_CPUS_PER_TASK", "MY_SLURM_X", "SLURMD"):
        monkeypatch.setenv(name, "x")
    left = {name for name in clean_environment() if "SLURM" in name or "SBATCH" in name or "SRUN" in name}
    assert left == {"SLURM_CONF", "MY_SLURM_X", "SLURMD"}


@pytest.mark.parametrize(("jobs", "calls"), [(0, 0), (1, 1), (200, 1), (201, 2), (1000, 5)])
def test_sacct_is_called_once_for_each_200_array_ids(monkeypatch, jobs, calls):
    commands = []
    monkeypatch.setattr(slurm, "_call", lambda command: commands.append(command) or "")
    slurm.sacct([str(number) for number in range(jobs)] * 2)
    asked = [word for command in commands for word in command if word.startswith("--jobs=")]
    ids = [job for word in asked for job in word.removeprefix("--jobs=").split(",")]
    assert len(commands) == calls
    assert sorted(ids) == sorted(map(str, range(jobs)))
    assert all(len(word.split(",")) <= 200 for word in asked)


def test_squeue_asks_for_this_process_user_whatever_the_environment_says(commands, monkeypatch, tmp_path):
    commands.write("squeue", f"printf '%s\\n' \"$@\" >{tmp_path}/asked")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    slurm.squeue()
    assert f"--user={os.getuid()}" in (tmp_path / "asked").read_text().splitlines()


def test_a_command_that_is_not_there_is_named(commands):
    with pytest.raises(NoSchedulerError, match="squeue"):
        slurm.squeue()


def test_a_command_that_fails_is_quoted(commands):
    commands.write("sbatch", "echo 'sbatch: error: invalid account' >&2; exit 1")
    with pytest.raises(SchedulerError, match="invalid account"):
        slurm.sbatch("job.sh")


@pytest.mark.parametrize("answer", ["", "Submitted batch job", "sbatch: queued\nlater", "12x"])
def test_an_answer_without_a_job_id_is_an_error(commands, answer):
    commands.write("sbatch", f"printf '%s' '{answer}'")
    with pytest.raises(SchedulerError, match="no job id"):
        slurm.sbatch("job.sh")


@pytest.mark.parametrize("answer", ["77", "77;cluster", "site says hello\n77"])
def test_the_job_id_is_found_behind_a_sites_greeting(commands, answer):
    commands.write("sbatch", f"printf '%s' '{answer}'")
    assert slurm.sbatch("job.sh") == "77"


def test_a_command_that_hangs_is_given_up(commands, monkeypatch):
    commands.borrow("sleep")
    commands.write("squeue", "exec sleep 60")
    monkeypatch.setattr(slurm, "TIMEOUT_S", 0.2)
    with pytest.raises(SchedulerError, match="no answer"):
        slurm.squeue()


def test_a_command_that_may_not_be_run_is_no_traceback(commands):
    path = commands.write("squeue", "")
    path.write_text("#!/nowhere/bash\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    with pytest.raises((SchedulerError, NoSchedulerError)):
        slurm.squeue()


def test_bytes_that_are_not_utf8_in_an_answer_are_read_over(commands):
    commands.write("squeue", "printf '1|N/A|RUNNING|0:01|N/A|n1|\\xff|n1\\n'")
    (row,) = slurm.squeue()
    assert row.job == "1"


# ---------------------------------------------------------------- moments and nodes


def test_a_moment_is_of_this_machines_zone():
    assert slurm.moment("2026-11-21T17:30:00") == time.mktime((2026, 11, 21, 17, 30, 0, 0, 0, -1))


@given(noise | st.text(max_size=25) | st.from_regex(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}", fullmatch=True))
@example("N/A")
@example("Unknown")
@example("0000-00-00T00:00:00")
@example("2026-02-30T00:00:00")
@example("٢٠٢٦-11-21T17:30:00")
def test_a_moment_is_never_an_exception(text):
    found = slurm.moment(text)
    assert found is None or isinstance(found, float)


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        ("idle", True),
        ("mixed", True),
        ("allocated", True),
        ("down*", False),
        ("drained", False),
        ("draining@", False),
        ("failing", False),
        ("unknown", False),
    ],
)
def test_nodes_that_cannot_be_used(commands, state, usable):
    commands.write("sinfo", f"echo 'n7|{state}'")
    assert slurm.unusable_nodes() == (set() if usable else {"n7"})


@given(state=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="|"), max_size=16))
@example("SOMETHING_NEW")
@example("COMPLETED")
def test_a_job_that_the_queue_holds_is_never_over(state):
    for row in parse_squeue(f"1|N/A|{state}|0:01|N/A|n1|name|n1\n"):
        assert reconcile._from_queue(row).state in ("queued", "running", "ending")
