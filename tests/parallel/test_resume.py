"""Runs that are interrupted and go on: real processes, judged by the losses of an undisturbed run, to the last bit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_runs import finish, logs, make_run, start

from hpcpar.outcome import decide
from hpcpar.records import Cause, Event, Step
from hpcpar.runs import RunFolder

STEPS = 60
FIRST, SECOND = "job7_2.0", "job7_2.1"
EVERY = {"HPCPAR_CHECKPOINT_EVERY": "10", "HPCPAR_CHECKPOINT_KEEP": "2"}
ON_SIGNAL = {"HPCPAR_CHECKPOINT_KEEP": "2"}
ENDLESS = 1_000_000


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float | None]:
    """The losses of a run that nobody touched."""
    folder = make_run(tmp_path_factory.mktemp("undisturbed") / "run", "ddp", steps=STEPS)
    assert _run(folder, FIRST) == 0
    assert not folder.checkpoints.exists(), "nobody asked"
    return [step.loss for step in folder.steps(FIRST).records]


def _run(folder: RunFolder, attempt: str, /, **variables: str) -> int:
    return finish(folder, start(folder, HPCPAR_ATTEMPT=attempt, **variables), attempt)


def _kept(folder: RunFolder) -> list[Step]:
    """Return the steps that the record says it is made of."""
    record = folder.record()
    assert record is not None, logs(folder, 0, folder.attempts()[-1])
    by_attempt = {span.attempt: folder.steps(span.attempt).records for span in record.lineage}
    return [s for span in record.lineage for s in by_attempt[span.attempt] if span.first <= s.step <= span.last]


def _events(folder: RunFolder, attempt: str, kind: str) -> list[Event]:
    return [event for event in folder.events(attempt).records if event.kind == kind]


def _until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _killed(path: Path, step: int = 45) -> RunFolder:
    """Return a run of which a rank was killed in the middle of a step."""
    folder = make_run(path / "run", "chaos", {"deed": "kill", "rank": 1, "step": step}, steps=STEPS)
    assert _run(folder, FIRST, **EVERY) == 128 + signal.SIGKILL
    return folder


def _names(folder: RunFolder) -> list[str]:
    return sorted(os.listdir(folder.checkpoints))


def test_a_killed_run_goes_on_where_it_was_saved(tmp_path: Path, undisturbed: list[float | None]) -> None:
    folder = _killed(tmp_path)
    assert _names(folder) == ["step-0000000030", "step-0000000040"]
    assert _run(folder, SECOND, **EVERY) == 0
    kept = _kept(folder)
    assert [step.step for step in kept] == list(range(1, STEPS + 1))
    assert [step.loss for step in kept] == undisturbed
    assert folder.steps(SECOND).records[0].step == 41, "nothing is done twice"
    record = folder.record()
    assert record is not None
    assert (record.loss_first, record.loss_last) == (undisturbed[0], undisturbed[-1])
    assert record.phases["checkpoint"] > 0
    assert record.phases["restore"] > 0
    assert _names(folder) == ["step-0000000050", "step-0000000060"], "asked for, so they are kept"
    assert decide(folder).state == "done"


@pytest.mark.full
def test_where_the_last_is_damaged_all_ranks_use_the_one_before(
    tmp_path: Path, undisturbed: list[float | None]
) -> None:
    folder = _killed(tmp_path)
    data = sorted((folder.checkpoints / "step-0000000040").glob("*.distcp"))[-1]  # what rank 1 looks through
    data.write_bytes(data.read_bytes()[:-1])
    assert _run(folder, SECOND, **EVERY) == 0
    assert [step.loss for step in _kept(folder)] == undisturbed
    (rejected,) = [e for e in _events(folder, SECOND, "checkpoint") if e.data["outcome"] == "rejected"]
    assert (rejected.data["step"], "were written" in rejected.data["reason"]) == (40, True)
    assert _events(folder, SECOND, "resume")[0].data["step"] == 30


@pytest.mark.full
def test_before_the_time_limit_a_run_saves_and_leaves(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "single", ranks_per_node=1, steps=ENDLESS)
    process = start(folder, HPCPAR_ATTEMPT=FIRST, **ON_SIGNAL)
    _until(lambda: folder.last_step(FIRST) >= 1)
    os.kill(_events(folder, FIRST, "start")[0].data["pid"], signal.SIGUSR1)
    assert finish(folder, process, FIRST) == 0, "a rank that failed would have srun kill the others"
    assert folder.stopped_path(FIRST).exists()
    outcome = decide(folder)
    assert (outcome.state, outcome.cause) == ("failed", Cause.TIMEOUT)
    last = folder.last_step(FIRST)
    assert f"SIGUSR1 stopped it after step {last}; its checkpoint is there" in outcome.message
    assert _names(folder) == [f"step-{last:010d}"]
    process = start(folder, HPCPAR_ATTEMPT=SECOND, **ON_SIGNAL)
    _until(lambda: folder.last_step(SECOND) >= last + 1)
    process.send_signal(signal.SIGTERM)
    assert finish(folder, process, SECOND) == 128 + signal.SIGTERM
    assert folder.steps(SECOND).records[0].step == last + 1
    assert not folder.stopped_path(SECOND).exists(), "who ends it from outside does not want it back"
    assert decide(folder).cause == Cause.KILLED
    (error,) = _events(folder, SECOND, "error")
    assert error.data["message"] == f"SIGTERM stopped it after step {folder.last_step(SECOND)}; its checkpoint is there"


@pytest.mark.full
def test_a_checkpoint_that_cannot_be_written_is_said_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "ddp", steps=20)
    folder.checkpoints.write_text("a file where the folder should be")
    assert _run(folder, FIRST, **EVERY) == 0
    written = _events(folder, FIRST, "checkpoint")
    assert [event.data["outcome"] for event in written] == ["failed"] * 2
    assert "cannot write" in written[0].data["reason"]


@pytest.mark.full
def test_a_strategy_without_checkpoints_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "localsgd", steps=5)
    assert _run(folder, FIRST, **EVERY) == 1
    assert "strategy localsgd on this mesh has no checkpoints" in decide(folder).message
