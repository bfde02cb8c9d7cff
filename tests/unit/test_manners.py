"""Calls of the scheduler: all processes of a user share one bucket."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hpcpar.control import manners, slurm
from hpcpar.runs import state_folder


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept = 1e9, 0.0

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, isolation: Any) -> Clock:
    clock = Clock()
    monkeypatch.setattr(manners, "time", clock)
    return clock


def test_a_bucket_of_calls_is_free_and_then_they_come_at_its_pace(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPCPAR_CALLS", "5,0.5")
    for _ in range(5):
        manners.take_turn()
    assert clock.slept == 0
    for _ in range(3):
        manners.take_turn()
    assert clock.slept == pytest.approx(3 / 0.5, abs=0.1)
    clock.now += 1000
    for _ in range(5):
        manners.take_turn()
    assert clock.slept == pytest.approx(3 / 0.5, abs=0.1), "it is full again, and never more than full"


def test_nobody_waits_longer_than_a_minute(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCPAR_CALLS", "1,0.0001")
    manners.take_turn()
    manners.take_turn()
    assert clock.slept == pytest.approx(60, abs=1)


@pytest.mark.parametrize("content", [b"", b"x y", b"\0" * 50, b"nan nan", b"inf 0", b"-5 1e9", b"1 2 3", b"9 9e99"])
def test_whatever_the_file_holds_nobody_waits_for_ever(clock: Clock, content: bytes) -> None:
    state_folder().mkdir(parents=True)
    (state_folder() / "calls").write_bytes(content)
    manners.take_turn()
    assert clock.slept <= 60


@pytest.mark.parametrize("words", ["", "x", "5", "0,1", "5,0", "5,-1", "1,2,3"])
def test_rules_that_make_no_sense_are_the_usual_ones(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("HPCPAR_CALLS", words)
    assert manners._rules() == (manners.CALLS, manners.PER_SECOND)


def test_where_nothing_can_be_kept_nobody_waits(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCPAR_STATE", "/proc/nowhere")
    monkeypatch.setenv("HPCPAR_CALLS", "1,0.001")
    for _ in range(5):
        manners.take_turn()
    assert clock.slept == 0


def test_all_processes_take_from_the_same_bucket(isolation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCPAR_CALLS", "50,0.0001")
    with ThreadPoolExecutor(8) as pool:  # flock is of the open file, so threads are as good as processes
        waits = list(pool.map(lambda _: manners._try(50, 0.0001), range(80)))
    assert sum(wait == 0 for wait in waits) == 50


def test_every_call_of_slurm_takes_its_turn(commands: Any, isolation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    monkeypatch.setattr(slurm, "take_turn", lambda: turns.append(1))
    commands.write("squeue", "exit 0")
    commands.write("sacct", "exit 0")
    slurm.squeue()
    slurm.sacct([str(n) for n in range(401)])
    assert len(turns) == 1 + 3
