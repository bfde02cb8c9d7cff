"""`hpcpar cancel` and `hpcpar logs`, on this machine's queue and beside stub commands of Slurm."""

import json
import subprocess
import sys
import time

import msgspec
import psutil
import pytest
from test_local_queue import Bench

from hpcpar import records
from hpcpar.cli import main
from hpcpar.control import local_queue
from hpcpar.control.status import get_status
from hpcpar.spec import Submission

CANCELLED = ("failed", "cancelled", "by `hpcpar cancel`")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def outcomes(bench):
    return {row.run: (row.state, row.cause, row.note) for row in get_status([bench.study]).rows}


def names_in_order(bench):
    return sorted((run.path.name for run in bench.study.runs()), key=lambda name: bench.study.run(name).spec().order)


def started_queue(bench):
    """Drain the queue in a process; return once its first script has begun."""
    process = subprocess.Popen([sys.executable, "-m", "hpcpar.control.local_queue"], cwd="/")
    end = time.monotonic() + 60
    while not bench.ran() and time.monotonic() < end:
        time.sleep(0.02)
    return process


# ---------------------------------------------------------------- cancel: this machine


def test_what_runs_is_ended_what_waits_is_passed_over_and_the_rest_goes_on(bench, capsys):
    bench.batch("a", [0, 1], body="sleep 600")
    bench.batch("b", [2], begun=2.0)
    first, second, third = names_in_order(bench)
    queue = started_queue(bench)
    assert main(["cancel", str(bench.study.run(first).path), str(bench.study.run(second).path)]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted([first, second])
    assert queue.wait(60) == 0
    assert bench.ran() == ["local-a_0.0", "local-b.0"], "the second run never began, the third did"
    assert not any(psutil.pid_exists(pid) for pid in bench.pids())
    found = outcomes(bench)
    assert (found[first], found[second]) == (CANCELLED, CANCELLED)
    assert found[third] != CANCELLED
    assert local_queue.num_waiting() == 0


def test_a_dry_run_says_what_would_be_cancelled_and_cancels_nothing(bench, capsys):
    bench.batch("a", [0, 1])
    assert main(["cancel", str(bench.study.path), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert sorted(said.out.split()) == sorted(names_in_order(bench))
    assert "2 runs would be cancelled" in said.err
    assert local_queue.drain() == 2


def test_a_run_that_ended_keeps_its_outcome(bench, capsys):
    bench.batch("a", [0])
    local_queue.drain()
    before = outcomes(bench)
    assert main(["cancel", str(bench.study.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert outcomes(bench) == before


def test_a_process_that_only_has_the_number_of_the_script_is_left_alone(bench):
    bench.batch("a", [0])
    with subprocess.Popen(["sleep", "600"]) as innocent:
        try:
            with local_queue._lock():
                current = local_queue.Current(pid=1, job_id="local-a", since=time.time(), script=innocent.pid)
                (local_queue.folder() / "current.json").write_bytes(msgspec.json.encode(current))
                local_queue.stop({"local-a"})
            assert innocent.poll() is None
        finally:
            innocent.kill()


# ---------------------------------------------------------------- cancel: Slurm


def on_slurm(bench, jobs):
    """Give each job id's run a submission line, as after sbatch."""
    for number, job_id in enumerate(jobs):
        line = Submission(time=time.time(), batch="b", scheduler="slurm", job_id=job_id, script_sha256="")
        records.append(bench.study.run(bench.run(number)).submission_path, line)


def test_one_word_a_job_goes_to_scancel(bench, commands, tmp_path, capsys):
    on_slurm(bench, ["12_0", "12_3", "12_10", "13"])
    commands.write("squeue", r"printf '12|[0,3,10]|PENDING|0:00|N/A|(Priority)|n|\n13|N/A|RUNNING|0:01|N/A|n1|n|n1\n'")
    commands.write("scancel", f"printf '%s\\n' \"$@\" >>{tmp_path}/told")
    assert main(["cancel", str(bench.study.path)]) == 0
    assert (tmp_path / "told").read_text().split() == ["--quiet", "12_[0,3,10]", "13"]
    assert "4 runs cancelled" in capsys.readouterr().err
    assert set(outcomes(bench).values()) == {CANCELLED}


def test_what_scancel_refuses_stays_as_it_was(bench, commands, capsys):
    on_slurm(bench, ["12"])
    commands.write("squeue", r"printf '12|N/A|RUNNING|0:01|N/A|n1|n|n1\n'")
    commands.write("scancel", "echo 'scancel: error: Access denied' >&2; exit 1")
    assert main(["cancel", str(bench.study.path)]) == 1
    assert "Access denied" in capsys.readouterr().err
    assert {state for state, _, _ in outcomes(bench).values()} == {"running"}


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("verb", ["cancel", "logs"])
def test_a_run_is_found_by_the_beginning_of_its_name_when_it_is_the_only_one(bench, verb, capsys, monkeypatch):
    monkeypatch.setenv("HPCPAR_RUNS", str(bench.study.path.parent))
    bench.batch("a", [0, 1])
    first, second = names_in_order(bench)
    assert main([verb, "no-such-run"]) == 2
    assert f"run 'no-such-run': is not known here\n    one of: {min(first, second)}" in capsys.readouterr().err
    assert main([verb, ""]) == 2
    capsys.readouterr()
    shared = bench.study.run(first[:3] + "-shared")
    shared.path.mkdir()
    (shared.path / "spec.json").write_text("{}")
    assert main([verb, first[:3]]) == 2
    assert f"run '{first[:3]}': could be " in capsys.readouterr().err


# ---------------------------------------------------------------- logs


@pytest.fixture
def logged(bench, monkeypatch):
    """A run whose script and two ranks printed something; return its name."""
    monkeypatch.setenv("HPCPAR_RUNS", str(bench.study.path.parent))
    batch = bench.batch("a", [0], body="echo from the script")
    name = names_in_order(bench)[0]
    line = Submission(time=time.time(), batch=batch.key, scheduler="local", job_id="local-a", script_sha256="")
    records.append(bench.study.run(name).submission_path, line)
    local_queue.drain()
    logs = bench.study.run(name).logs
    logs.mkdir(exist_ok=True)
    (logs / "local-a.0.0.log").write_bytes(b"zero\n\x1b]0;evil\x07\xff\n")
    (logs / "local-a.0.1.log").write_text("".join(f"line {n}\n" for n in range(100)))
    return name


def test_logs_are_those_of_the_script_and_of_rank_0_with_escapes_shown(logged, capsys):
    assert main(["logs", logged[:6]]) == 0
    assert capsys.readouterr().out == "from the script\nzero\n\\x1b]0;evil\\x07\\ufffd\n".replace("\\ufffd", "�")


def test_the_last_lines_of_another_rank(logged, capsys):
    assert main(["logs", logged, "--rank", "1", "-n", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == ["from the script", "line 98", "line 99"]


def test_following_a_run_that_has_ended_prints_it_and_ends(logged, capsys):
    assert main(["logs", logged, "--follow"]) == 0
    assert capsys.readouterr().out.startswith("from the script\nzero\n")


def test_a_link_out_of_the_folder_is_not_followed(bench, logged, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.write_text("secret\n")
    log = bench.study.run(logged).logs / "local-a.0.0.log"
    log.unlink()
    log.symlink_to(secret)
    assert main(["logs", logged]) == 0
    assert "secret" not in capsys.readouterr().out


def test_a_rank_without_a_log_names_those_that_have_one(bench, logged, capsys):
    (bench.study.batch("a").logs / "local-a.log").unlink()
    assert main(["logs", logged, "--rank", "7"]) == 2
    assert "has no log of rank 7\n    ranks with a log: 0, 1" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--rank", "7"], ["--rank", "7", "--follow"], ["--rank", "2"]])
def test_a_rank_without_a_log_is_refused_although_the_script_has_one(logged, capsys, words):
    assert main(["logs", logged, *words]) == 2
    said = capsys.readouterr()
    assert f"{logged}: has no log of rank {words[1]}\n    ranks with a log: 0, 1" in said.err
    assert said.out == ""


@pytest.mark.parametrize("attempt", ["foo", "../../x", "local-a", "local-a.1"])
def test_an_attempt_that_is_not_there_is_refused(logged, capsys, attempt):
    assert main(["logs", logged, "--attempt", attempt]) == 2
    said = capsys.readouterr()
    assert f"{logged}: has no attempt '{attempt}'\n    there are: local-a.0" in said.err
    assert said.out == ""


def test_an_attempt_by_its_name(logged, capsys):
    assert main(["logs", logged, "--attempt", "local-a.0", "--rank", "1", "-n", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == ["from the script", "line 99"]


def test_before_a_rank_has_begun_there_is_only_what_the_script_printed(bench, logged, capsys):
    for log in bench.study.run(logged).logs.iterdir():
        log.unlink()
    assert main(["logs", logged]) == 0
    assert capsys.readouterr().out == "from the script\n"
    assert main(["logs", logged, "--rank", "0"]) == 2
    assert "no rank has begun" in capsys.readouterr().err


def test_logs_of_other_processes_of_an_attempt_are_no_ranks(bench, logged, capsys):
    (bench.study.run(logged).logs / "local-a.0.workers.job.log").touch()
    assert main(["logs", logged, "--rank", "7"]) == 2
    assert "ranks with a log: 0, 1\n" in capsys.readouterr().err


def test_all_logs_as_json(bench, logged, capsys):
    assert main(["logs", logged, "--json"]) == 0
    ((attempt, paths),) = json.loads(capsys.readouterr().out).items()
    assert attempt == "local-a.0"
    assert [path.rpartition("/")[2] for path in paths] == ["local-a.log", "local-a.0.0.log", "local-a.0.1.log"]
