"""A rank that begins no step for too long; what lasts long and is no step; who is watched."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from worker_spec import make_info, make_spec

from hpcpar.records import Cause, Step
from hpcpar.registry import StepResult
from hpcpar.runs import RunFolder
from hpcpar.worker import watchdog
from hpcpar.worker.journal import Journal
from hpcpar.worker.measure.clock import CpuClock
from hpcpar.worker.measure.loop import train
from hpcpar.worker.measure.window import Exchanged, exchange_alone
from hpcpar.worker.watchdog import Patience, Progress, patience_of

SOON = Patience(0.1, 60.0)


class Ended(BaseException):
    """Stands for the end of the process."""


def begun(step: int) -> Progress:
    """Return the progress of a training in which this step has begun."""
    progress = Progress()
    progress.step, progress.watched = step, True
    return progress


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(watchdog.os, "_exit", leave)
    monkeypatch.setattr(watchdog, "LEAVE_AFTER_S", 0.0)
    return codes


def _hang(progress: Progress, folder: RunFolder, patience: Patience = SOON) -> None:
    journal = Journal(folder, make_info())

    def run() -> None:
        with pytest.raises(Ended):
            watchdog._watch(progress, patience, journal, make_info())

    watcher = threading.Thread(target=run)
    watcher.start()
    watcher.join(30)
    assert not watcher.is_alive()


def test_the_stacks_of_all_threads_and_the_step_are_in_the_error(tmp_path: Path, ends: list[int]) -> None:
    folder = RunFolder(tmp_path)
    progress = begun(7)
    release = threading.Event()
    helper = threading.Thread(target=release.wait, name="a helper")
    helper.start()
    _hang(progress, folder)
    release.set()
    helper.join()
    assert ends == [1]
    (error,) = [event for event in folder.events("5.0").records if event.kind == "error"]
    assert (error.data["cause"], error.data["message"]) == (Cause.HUNG, "step 7 did not end within 0.1 s")
    assert "thread a helper:" in error.data["traceback"]
    assert "main thread:" in error.data["traceback"]
    assert "watcher.join(30)" in error.data["traceback"]


def test_what_lasts_long_between_two_steps_is_no_hang(tmp_path: Path, ends: list[int]) -> None:
    progress = begun(1)
    finished = threading.Event()

    def run() -> None:
        watchdog._watch(progress, Patience(0.2, 60.0), Journal(RunFolder(tmp_path), make_info()), make_info())
        finished.set()

    with progress.between():
        threading.Thread(target=run, daemon=True).start()
        time.sleep(0.5)  # longer than the patience: the point of the test
    progress.end()
    assert finished.wait(30)
    assert ends == []
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_never_ends_is_a_hang_too(tmp_path: Path, ends: list[int]) -> None:
    folder, progress = RunFolder(tmp_path), begun(5)
    with progress.between():
        _hang(progress, folder, Patience(60.0, 0.1))
    assert ends == [1]
    (error,) = [event for event in folder.events("5.0").records if event.kind == "error"]
    assert error.data["message"] == "what follows step 5 did not end within 0.1 s"


def test_the_longest_step_is_known_and_what_is_between_steps_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Slow:
        def batch(self, step: int) -> int:
            return step

        def step(self, batch: int) -> StepResult:
            now[0] += 5.0 if batch == 3 else 1.0
            return StepResult(loss_sum=1.0, weight=1.0, applied=True)

    def exchange(table: Any, next_size: int) -> Exchanged:
        now[0] += 50.0
        return exchange_alone(table, next_size)

    progress = Progress()
    train(Slow(), 6, CpuClock(), exchange, lambda _records: None, progress=progress)  # type: ignore[arg-type]
    assert progress.longest_s == 5.0


@pytest.mark.parametrize(
    ("world_size", "steps", "said_s", "time_s", "wanted"),
    [
        (4, 100, 0.0, 600.0, (270.0, 270.0)),
        (4, 100, 0.0, 86400.0, (1620.0, 1620.0)),
        (4, 100, 20.0, 600.0, (20.0, 200.0)),
        (4, 100, 33.0, 600.0, (33.0, 270.0)),
        (4, 100, 300.0, 600.0, (300.0, 300.0)),
        (1, 100, 0.0, 600.0, (0.0, 0.0)),
        (1, 100, 33.0, 600.0, (33.0, 270.0)),
        (4, 1, 0.0, 600.0, (0.0, 0.0)),
    ],
)
def test_patience(world_size: int, steps: int, said_s: float, time_s: float, wanted: tuple[float, float]) -> None:
    spec = make_spec()
    identity = msgspec.structs.replace(spec.identity, steps=steps, nodes=1, ranks_per_node=world_size)
    spec = msgspec.structs.replace(spec, identity=identity, time_s=time_s)
    assert patience_of(spec, make_info(world_size=world_size, hang_after_s=said_s)) == pytest.approx(wanted)


def test_a_training_that_goes_on_ends_the_watch() -> None:
    class Trainer:
        def batch(self, step: int) -> int:
            return step

        def step(self, batch: int) -> Any:
            return StepResult(loss_sum=1.0, weight=1.0, applied=True)

    progress, written = Progress(), list[Step]()
    train(Trainer(), 5, CpuClock(), exchange_alone, written.extend, progress=progress)  # type: ignore[arg-type]
    assert (progress.step, progress.over, len(written)) == (5, True, 5)
