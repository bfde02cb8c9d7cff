"""The local launcher: real processes that fail, hang, and lose their parents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE_S = 30
PYTHON = sys.executable


def _command(logs: Path, *command: str, nodes: int = 1, ranks: int = 2, limit: float = 60) -> list[str]:
    size = ["--nodes", str(nodes), "--ranks-per-node", str(ranks), "--time-limit", str(limit), "--logs", str(logs)]
    return [PYTHON, "-m", "hpcpar.worker.launch", *size, "--", *command]


def _environment() -> dict[str, str]:
    return {**os.environ, "HPCPAR_ATTEMPT": "j5_1.2"}


def _run(logs: Path, *command: str, **size: float) -> subprocess.CompletedProcess[str]:
    whole = _command(logs, *command, **size)  # type: ignore[arg-type]
    return subprocess.run(whole, env=_environment(), capture_output=True, text=True, timeout=PATIENCE_S)


def test_every_rank_finds_its_place_and_has_a_log_of_its_own(tmp_path: Path) -> None:
    script = (
        "from hpcpar.worker.rank import rank_info; i = rank_info(3);"
        "print(i.rank, i.local_rank, i.node_rank, i.nodes, i.world_size,"
        " i.job_id, i.attempt, i.scheduler, i.cpus_asked)"
    )
    done = _run(tmp_path, PYTHON, "-c", script, nodes=2, ranks=2)
    assert done.returncode == 0, done.stderr
    said = [(tmp_path / f"j5_1.2.{rank}.log").read_text().split() for rank in range(4)]
    places = [[0, 0, 0], [1, 1, 0], [2, 0, 1], [3, 1, 1]]
    assert said == [[*map(str, place), "2", "4", "j5_1", "j5_1.2", "local", "3"] for place in places]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("deed", "code", "words"),
    [
        ("import sys; sys.exit(7)", 7, "rank 1 ended with exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", 137, "rank 1 was ended by SIGKILL"),
    ],
    ids=["exit", "kill -9"],
)
def test_a_failing_rank_ends_the_others_and_its_code_is_the_launchers(
    tmp_path: Path, deed: str, code: int, words: str
) -> None:
    script = f"import os, time\nif os.environ['SUBMITIT_LOCAL_GLOBALID'] == '1': {deed}\ntime.sleep(600)"
    done = _run(tmp_path, PYTHON, "-c", script, ranks=3)
    assert done.returncode == code
    assert words in done.stderr
    assert _survivors(tmp_path) == []


def test_ranks_that_ignore_sigterm_are_ended_at_the_time_limit(tmp_path: Path) -> None:
    done = _run(tmp_path, "sh", "-c", "trap '' TERM; sleep 600 & sleep 600; sleep 600", limit=0.5)
    assert done.returncode == 124
    assert "time limit" in done.stderr
    assert _survivors(tmp_path) == []


def test_a_command_that_does_not_exist_is_said(tmp_path: Path) -> None:
    done = _run(tmp_path, "/no/such/program")
    assert done.returncode == 127
    assert "/no/such/program" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_forwarded(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import signal, sys, time;"
        f"signal.signal({int(number)}, lambda *_: (print('got it', flush=True), sys.exit(0)));"
        "print('ready', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(_command(tmp_path, PYTHON, "-c", script), env=_environment())
    _wait_for(lambda: _said(tmp_path, "ready") == 2)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 128 + number
    assert _said(tmp_path, "got it") == 2


def test_no_rank_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(_command(tmp_path, "sleep", "600", ranks=3), env=_environment())
    _wait_for(lambda: len(_survivors(tmp_path)) == 3)
    process.kill()
    process.wait(PATIENCE_S)
    _wait_for(lambda: _survivors(tmp_path) == [])


def test_the_launcher_does_not_outlive_its_parent(tmp_path: Path) -> None:
    # The parent is the job script: a shell that waits for the launcher, as bash does for its last but one command.
    parent = subprocess.Popen(
        ["bash", "-c", '"$@"; true', "bash", *_command(tmp_path, "sleep", "600")], env=_environment()
    )
    _wait_for(lambda: len(_survivors(tmp_path)) == 2)
    parent.kill()
    parent.wait(PATIENCE_S)
    _wait_for(lambda: _survivors(tmp_path) == [])
    _wait_for(lambda: _processes_with(str(tmp_path)) == [])


def _survivors(logs: Path) -> list[int]:
    """List the processes whose standard output is one of the ranks' logs."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "fd" / "1").readlink().parent == logs:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _processes_with(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _said(logs: Path, word: str) -> int:
    return sum(path.read_text().count(word) for path in logs.glob("*.log"))


def _wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
