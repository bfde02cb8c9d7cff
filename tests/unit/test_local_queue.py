"""This machine's queue: order, one process at a time, and what is left when it is killed. Real processes, stub jobs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from records_oracle import ideal, write_record

from hpcpar import records
from hpcpar.cli import main
from hpcpar.control import local_queue
from hpcpar.control.status import get_status
from hpcpar.records import Event
from hpcpar.runs import BatchLine, StudyFolder

SCRIPT = """#!/bin/bash
echo "$HPCPAR_JOB_ID.$HPCPAR_RESTARTS $$" >>"{log}"
{body}
"""


class Bench:
    """A study whose job scripts do nothing but note that they ran."""

    def __init__(self, place: Path, name: str = "study") -> None:
        self.log = place / "log"
        self.study = StudyFolder(place / "runs" / name)
        self._oracle = ideal(nodes=(1,), study=name)

    def run(self, number: int) -> str:
        """Write a run's spec; `number` is its place in the study's order."""
        spec = msgspec.structs.replace(self._oracle.spec("ddp", 1, number + 1), order=number)
        self.study.run(spec.run_name).write_spec(spec)
        return spec.run_name

    def batch(self, key: str, numbers: list[int], *, begun: float = 1.0, body: str = "", queue: bool = True):
        """Write a batch of runs as submit does, and queue it."""
        batch = self.study.batch(key)
        batch.create(SCRIPT.format(log=self.log, body=body), [self.run(number) for number in numbers])
        mine = str(local_queue.folder())
        batch.journal(BatchLine(kind="intent", time=begun, begun=begun, scheduler="local", queue=mine))
        batch.journal(BatchLine(kind="accepted", time=begun, scheduler="local", job_id=f"local-{key}", queue=mine))
        if queue:
            local_queue.enqueue(batch)
        return batch

    def ran(self) -> list[str]:
        """The attempts that ran, in order."""
        return [line.split()[0] for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def pids(self) -> list[int]:
        return [int(line.split()[1]) for line in self.log.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def drain_in_a_process():
    return subprocess.Popen([sys.executable, "-m", "hpcpar.control.local_queue"], cwd="/")


# ---------------------------------------------------------------- order


def test_batches_of_one_submit_are_run_in_the_studys_order_with_repeats_outermost(bench):
    # Two shapes, two repeats of two cells each: cells 0 and 2 have the one shape, 1 and 3 the other.
    bench.batch("small", [0, 2, 4, 6])
    bench.batch("large", [1, 3, 5, 7])
    assert local_queue.drain() == 8
    wanted = [f"local-{key}_{task}.0" for task in range(4) for key in ("small", "large")]
    assert bench.ran() == wanted


def test_an_earlier_submit_comes_before_a_later_one(bench):
    bench.batch("later", [0, 1], begun=2.0)
    bench.batch("earlier", [2, 3], begun=1.0)
    local_queue.drain()
    assert bench.ran() == ["local-earlier_0.0", "local-earlier_1.0", "local-later_0.0", "local-later_1.0"]


def test_a_batch_of_one_has_no_task_in_its_job_id(bench):
    bench.batch("only", [0])
    local_queue.drain()
    assert bench.ran() == ["local-only.0"]


def test_a_drained_queue_is_empty(bench):
    bench.batch("a", [0])
    local_queue.drain()
    assert (local_queue.num_waiting(), local_queue.drain()) == (0, 0)


def test_a_run_whose_script_dies_gets_an_exit_line_and_the_queue_goes_on(bench):
    bench.batch("a", [0, 1], body="[[ $HPCPAR_INDEX == 0 ]] && kill -9 $$")
    assert local_queue.drain() == 2
    codes = [run.events(run.attempts()[0]).records[-1].data["code"] for run in bench.study.runs()]
    # 128 + 9; the other script's last command was the test, which failed
    assert sorted(codes) == [1, 137]


def test_the_last_word_of_the_script_itself_is_kept(bench):
    name = bench.run(0)
    path = bench.study.run(name).path
    line = '{"time":1,"kind":"script_exit","data":{"code":3}}'
    bench.batch("a", [0], body=f"echo '{line}' >>'{path}/events.'$HPCPAR_JOB_ID.$HPCPAR_RESTARTS.jsonl; exit 3")
    local_queue.drain()
    run = bench.study.run(name)
    assert [event.data["code"] for event in run.events(run.attempts()[0]).records] == [3]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"batch":"/nowhere","queued":1}', b"\xff"])
def test_a_damaged_entry_stops_nobody(bench, damage):
    bench.batch("a", [0])
    (local_queue.folder() / "0000-damaged.json").write_bytes(damage)
    local_queue.drain()
    assert (bench.ran(), local_queue.num_waiting()) == (["local-a.0"], 0)


def test_a_run_whose_folder_is_gone_stops_nobody(bench):
    bench.batch("a", [0, 1])
    gone = bench.study.run(bench.study.batch("a").read().runs[0])
    gone.spec_path.unlink()
    local_queue.drain()
    assert bench.ran() == ["local-a_1.0"]


# ---------------------------------------------------------------- one at a time


def test_a_second_process_sees_the_lock_and_ends_at_once(bench):
    bench.batch("a", [0])
    with local_queue._lock() as held:
        assert held
        assert drain_in_a_process().wait(60) == 0
    assert bench.ran() == []


def test_the_queue_is_alive_while_somebody_holds_the_lock(bench):
    bench.batch("a", [0])
    with local_queue._lock():
        assert local_queue.is_alive()
    assert not local_queue.is_alive()


def test_asking_whether_the_queue_is_alive_makes_no_folder(isolation):
    assert not local_queue.is_alive()
    assert not (isolation / "state").exists()


def test_an_entry_that_comes_between_the_last_look_and_the_unlock_is_not_lost(bench, monkeypatch):
    bench.batch("first", [0])
    real = local_queue._forget_finished

    def meanwhile():
        real()
        if not local_queue.holds(bench.study.batch("late")) and "local-late.0" not in bench.ran():
            bench.batch("late", [1], begun=2.0)
            assert drain_in_a_process().wait(60) == 0  # what a submit would start: it sees the lock

    monkeypatch.setattr(local_queue, "_forget_finished", meanwhile)
    assert local_queue.drain() == 2
    assert bench.ran() == ["local-first.0", "local-late.0"]


def test_starting_the_queue_twice_runs_nothing_twice(bench, tmp_path):
    bench.batch("a", [0, 1, 2])
    drains = [drain_in_a_process() for _ in range(3)]
    assert [drain.wait(60) for drain in drains] == [0, 0, 0]
    assert sorted(bench.ran()) == ["local-a_0.0", "local-a_1.0", "local-a_2.0"]


# ---------------------------------------------------------------- killed


@pytest.fixture
def killed(bench, tmp_path):
    """A queue of three runs, killed -9 in the middle of the second."""
    os.mkfifo(tmp_path / "up")
    os.mkfifo(tmp_path / "hold")
    body = f"""
runs=({bench.run(0)} {bench.run(1)} {bench.run(2)})
cd "{bench.study.path}/${{runs[HPCPAR_INDEX]}}"
echo '{{"time":1.0,"kind":"start"}}' >"events.$HPCPAR_JOB_ID.$HPCPAR_RESTARTS.jsonl"
if [[ $HPCPAR_INDEX == 1 && ! -e "{tmp_path}/go" ]]; then
  echo up >"{tmp_path}/up"
  read -r <"{tmp_path}/hold"
fi
true
"""
    bench.batch("a", [0, 1, 2], body=body)
    queue = drain_in_a_process()
    assert (tmp_path / "up").read_text() == "up\n"  # the second run's script is at work, and stays
    job = psutil.Process(bench.pids()[-1])
    queue.kill()
    queue.wait(60)
    (tmp_path / "go").touch()
    bench.job = job
    return bench


def test_the_job_does_not_outlive_the_queues_process(killed):
    gone, alive = psutil.wait_procs([killed.job], timeout=30)
    assert (len(gone), alive) == (1, [])


def test_status_says_that_the_queue_has_stopped_and_what_to_do(killed):
    status = get_status([killed.study])
    assert "hpcpar resume" in status.trouble[0]
    assert [row.state for row in status.rows] == ["failed", "queued", "queued"]  # the stubs leave no result


def test_waiting_for_a_queue_that_has_stopped_says_so(killed, monkeypatch, capsys):
    psutil.wait_procs([killed.job], timeout=30)

    def resume_after_two_looks(_):
        looks.append(1)
        if len(looks) == 2:
            local_queue.drain()

    looks: list[int] = []
    monkeypatch.setattr("hpcpar.cli.status.time.sleep", resume_after_two_looks)
    assert main(["status", str(killed.study.path), "--watch"]) == 1
    assert capsys.readouterr().err.count("warning: the local queue has stopped before its end") == 1


def test_resume_goes_on_and_runs_nothing_twice_that_had_ended(killed, capsys):
    psutil.wait_procs([killed.job], timeout=30)
    assert main(["resume", "--here"]) == 0
    assert killed.ran() == ["local-a_0.0", "local-a_1.0", "local-a_1.1", "local-a_2.0"]
    assert get_status([killed.study]).trouble == []


def test_a_study_that_is_removed_while_it_runs_does_not_stop_the_others(bench, tmp_path):
    removed = Bench(tmp_path, "removed")
    removed.batch("a", [0, 1], begun=1.0, body=f'rm -rf "{removed.study.path}"')
    bench.batch("b", [0], begun=2.0)
    local_queue.drain()
    assert bench.ran() == ["local-a_0.0", "local-b.0"]
    assert not removed.study.path.exists()


def test_a_run_that_had_begun_is_run_again_as_a_restart(bench):
    batch = bench.batch("a", [0])
    run = bench.study.run(batch.read().runs[0])
    records.append(run.events_path("local-a.0"), Event(time=1.0, kind="start"))
    local_queue.drain()
    assert bench.ran() == ["local-a.1"]


@pytest.mark.timeout(60)
def test_a_clock_that_was_set_back_does_not_make_a_run_run_for_ever(bench):
    batch = bench.batch("a", [0])
    run = bench.study.run(batch.read().runs[0])
    records.append(run.events_path("local-a.0"), Event(time=time.time() + 1e6, kind="start"))
    local_queue.drain()
    assert bench.ran() == ["local-a.1"]


def test_a_run_that_had_written_its_result_is_not_run_again(bench):
    batch = bench.batch("a", [0, 1])
    run = bench.study.run(batch.read().runs[0])
    records.append(run.events_path("local-a_0.0"), Event(time=1.0, kind="start"))
    write_record(run, ideal().record(run.spec(), "local-a_0.0", 1.0))  # and then the queue was killed
    local_queue.drain()
    assert bench.ran() == ["local-a_1.0"]


def test_a_result_of_an_earlier_batch_does_not_keep_a_run_from_running_again(bench):
    batch = bench.batch("again", [0], begun=5.0)
    run = bench.study.run(batch.read().runs[0])
    records.append(run.events_path("local-old.0"), Event(time=1.0, kind="start"))
    write_record(run, ideal().record(run.spec(), "local-old.0", 1.0))
    local_queue.drain()
    assert bench.ran() == ["local-again.0"]


@pytest.mark.parametrize("arguments", [["resume"], ["resume", "--here"]])
def test_resume_of_an_empty_queue_says_so(arguments, capsys):
    assert main(arguments) == 0
    assert "empty" in capsys.readouterr().err


def test_resume_while_the_queue_is_worked_off_says_so(bench, capsys):
    bench.batch("a", [0])
    with local_queue._lock():
        assert main(["resume"]) == 0
    assert "being worked off" in capsys.readouterr().err
    assert bench.ran() == []


def test_a_queue_that_was_started_in_the_background_drains_itself(bench):
    bench.batch("a", [0])
    local_queue.start()
    end = time.monotonic() + 60
    while (local_queue.num_waiting() or local_queue.is_alive()) and time.monotonic() < end:
        time.sleep(0.05)
    assert (bench.ran(), local_queue.num_waiting()) == (["local-a.0"], 0)


# ---------------------------------------------------------------- what status is told


def test_waiting_runs_say_how_many_are_before_them(bench):
    bench.batch("a", [0, 1, 2])
    with local_queue._lock():
        current = local_queue.Current(pid=1, job_id="local-a_0", since=time.time())
        (local_queue.folder() / "current.json").write_bytes(msgspec.json.encode(current))
        states = local_queue.live_states()
    assert [states[f"local-a_{task}"].state for task in range(3)] == ["running", "queued", "queued"]
    assert "2 before it" in states["local-a_2"].reason


def test_the_job_sees_its_number_and_its_folder_of_submission(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = 'echo "{\\"cwd\\": \\"$PWD\\", \\"index\\": $HPCPAR_INDEX}" >"' + str(tmp_path) + '/seen.json"'
    bench.batch("a", [0], body=script)
    monkeypatch.chdir("/")
    local_queue.drain()
    assert json.loads((tmp_path / "seen.json").read_text()) == {"cwd": str(tmp_path), "index": 0}
