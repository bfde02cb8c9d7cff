"""What people see of a training, and sinks of other tools that must never be in its way."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from worker_spec import make_spec

from hpcpar.records import Step
from hpcpar.worker import progress, sinks
from hpcpar.worker.progress import Progress
from hpcpar.worker.sinks import Sinks


def steps(first: int, last: int, loss: float | None = 2.5) -> list[Step]:
    return [
        Step(step=i, time_s=0.4, time_min_s=0.4, time_mean_s=0.4, slowest=0, data_s=0.1, loss=loss)
        for i in range(first, last + 1)
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_the_first_the_last_and_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    show = Progress(out, 100, "samples", 8)
    for window, at_s in ((steps(1, 1), 0.0), (steps(2, 3), 1.0), (steps(4, 7), 31.0), (steps(8, 100), 32.0)):
        now[0] = at_s
        show(window)
    assert out.getvalue().splitlines() == [
        "step 1/100, loss 2.5, 16 samples/s, 50s left",
        "step 7/100, loss 2.5, 16 samples/s, 46s left",
        "step 100/100, loss 2.5, 16 samples/s, 0s left",
    ]


def test_a_terminal_gets_a_bar_that_ends_with_the_line() -> None:
    out = Terminal()
    show = Progress(out, 4, "samples", 8)
    show(steps(1, 2, loss=None))
    show(steps(3, 4))
    first, last = out.getvalue().split("\r\x1b[K")[1:]
    assert first == f"[{'#' * 12}{'.' * 12}] step 2/4, loss not finite, 16 samples/s, 1.0s left"
    assert last == f"[{'#' * 24}] step 4/4, loss 2.5, 16 samples/s, 0s left\n"


def test_a_log_that_is_gone_ends_no_run() -> None:
    out = io.StringIO()
    show = Progress(out, 4, "samples", 8)
    out.close()
    show(steps(1, 3))
    show(steps(4, 4))


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log(self, step: int, values: dict[str, float]) -> None:
        self.logged.append((step, values))

    def close(self) -> None:
        self.closed = True


class Broken(Kept):
    def log(self, step: int, values: dict[str, float]) -> None:
        raise ConnectionError("nobody answers")


def made(monkeypatch: pytest.MonkeyPatch, *made_sinks: Any) -> tuple[Sinks, list[str]]:
    """Return sinks of which the first is called tensorboard, the second wandb; and where warnings go."""
    names = ("tensorboard", "wandb")[: len(made_sinks)]
    openers = {name: lambda spec, folder, one=one: one() for name, one in zip(names, made_sinks, strict=True)}
    monkeypatch.setattr(sinks, "OPENERS", openers)
    warnings: list[str] = []
    return Sinks(replace(make_spec(), sinks=names), Path(), warnings.append), warnings


def test_a_sink_gets_every_step_in_order_and_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    live, warnings = made(monkeypatch, lambda: kept)
    live(steps(1, 2))
    live(steps(3, 3, loss=None))
    live.close()
    assert [step for step, _ in kept.logged] == [1, 2, 3]
    assert kept.logged[0][1] == {"step_time_s": 0.4, "data_wait_s": 0.1, "loss": 2.5}
    assert "loss" not in kept.logged[2][1]
    assert (kept.closed, warnings) == (True, [])


def test_what_breaks_is_a_warning_and_the_other_sink_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    live, warnings = made(monkeypatch, Broken, lambda: kept)
    live(steps(1, 2))
    live(steps(3, 3))
    live.close()
    assert warnings == ["sink tensorboard gave up: ConnectionError: nobody answers"]
    assert len(kept.logged) == 3


def test_a_sink_that_is_not_installed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    live, warnings = made(monkeypatch, missing)
    live(steps(1, 1))
    live.close()
    assert warnings == ["sink tensorboard gave up: ModuleNotFoundError: No module named 'tensorboard'"]


def test_a_sink_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(sinks, "_ROOM", 2)
    forever = threading.Event()

    class Hanging(Kept):
        def log(self, step: int, values: dict[str, float]) -> None:
            forever.wait()

    live, warnings = made(monkeypatch, Hanging)
    for _ in range(9):
        live(steps(1, 1))
    live.close()
    forever.set()
    assert warnings == [
        "live sinks are behind by 2 windows and get no more",
        "live sinks had not finished 0.05 s after the training and were left behind",
    ]


def test_without_sinks_there_is_no_thread() -> None:
    before = threading.active_count()
    for spec in (None, make_spec()):
        live = Sinks(spec, Path(), pytest.fail)
        live(steps(1, 1))
        live.close()
    assert threading.active_count() == before
