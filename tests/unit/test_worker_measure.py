"""The training loop and its windows, with trainers that do nothing."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcpar.records import Step
from hpcpar.registry import StepResult
from hpcpar.worker.measure import window
from hpcpar.worker.measure.clock import CpuClock
from hpcpar.worker.measure.loop import train
from hpcpar.worker.measure.phases import Phases


class CountingTrainer:
    """Its loss is the step's number; it remembers what it was asked for."""

    def __init__(self, losses: dict[int, float] | None = None) -> None:
        self.asked: list[int] = []
        self._losses = losses or {}

    def batch(self, step: int) -> int:
        self.asked.append(step)
        return step

    def step(self, batch: int) -> StepResult:
        return StepResult(self._losses.get(batch, 2.0 * batch), 2.0, batch != 3)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_every_step_is_recorded_once_and_in_order(steps: int) -> None:
    written: list[Step] = []
    trainer = CountingTrainer()
    losses = train(trainer, steps, CpuClock(), window.exchange_alone, written.extend)
    assert trainer.asked == list(range(1, steps + 1))
    assert [record.step for record in written] == list(range(1, steps + 1))
    assert [record.loss for record in written] == [float(step) for step in range(1, steps + 1)]
    assert losses == (1.0, float(steps))
    assert [record.applied for record in written[:4]] == [True, True, False, True][:steps]
    assert all(record.slowest == 0 and record.time_s == record.time_min_s > 0 for record in written)


class KnowingTrainer(CountingTrainer):
    """It knows more of a step than the loop does."""

    def complete(self, records: list[Step]) -> list[Step]:
        return [msgspec.structs.replace(record, arrivals=[(0, record.step % 2)]) for record in records]


def test_a_trainer_may_complete_the_records_of_a_window() -> None:
    written: list[Step] = []
    train(KnowingTrainer(), 9, CpuClock(), window.exchange_alone, written.extend)
    assert [record.arrivals for record in written] == [[(0, step % 2)] for step in range(1, 10)]
    nobody: list[Step] = []
    train(KnowingTrainer(), 9, CpuClock(), lambda table, size: window.Exchanged(None, size), nobody.extend)
    assert nobody == [], "only rank 0 writes"


def test_a_kill_loses_at_most_what_was_recorded_plus_one() -> None:
    windows: list[int] = []
    train(CountingTrainer(), 5000, CpuClock(), window.exchange_alone, lambda records: windows.append(len(records)))
    recorded = np.cumsum([0, *windows])
    assert all(size <= min(before + 1, window.MAX_STEPS) for size, before in zip(windows, recorded, strict=False))


@given(size=st.integers(1, 1024), lasted_s=st.floats(0, 1e4))
def test_the_next_window(size: int, lasted_s: float) -> None:
    chosen = window.next_size(size, lasted_s)
    assert 1 <= chosen <= min(2 * size, window.MAX_STEPS)
    expected_s = chosen * lasted_s / size
    assert chosen == 1 or expected_s <= window.TARGET_S * 1.001
    assert chosen == 1 or 2 * expected_s <= 5.01, "five seconds hold even if steps become twice as slow"


def test_a_loss_that_is_not_finite_is_none_and_the_run_goes_on() -> None:
    written: list[Step] = []
    trainer = CountingTrainer({2: math.nan, 3: math.inf})
    train(trainer, 4, CpuClock(), window.exchange_alone, written.extend)
    assert [record.loss for record in written] == [1.0, None, None, 4.0]


def test_ranks_are_reduced_to_one_record() -> None:
    table = np.zeros((3, 2, len(window.Column)))
    table[:, 0] = [[1.0, 0.1, 10.0, 4.0, 1], [3.0, 0.3, 0.0, 0.0, 1], [2.0, 0.2, 20.0, 8.0, 1]]
    table[:, 1, window.Column.APPLIED] = [1, 0, 1]
    first, second = window.to_records(table, 7)
    assert (first.step, second.step) == (7, 8)
    assert (first.time_s, first.time_min_s, first.time_mean_s, first.slowest) == (3.0, 1.0, 2.0, 1)
    assert (first.data_s, first.loss, first.weight, first.applied) == (0.3, 30 / 12, 12.0, True)
    assert (second.loss, second.applied) == (None, False)


def test_the_exchange_is_in_no_steps_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Ticking(CountingTrainer):
        def batch(self, step: int) -> int:
            now[0] += 0.25
            return super().batch(step)

        def step(self, batch: int) -> StepResult:
            now[0] += 0.5
            return super().step(batch)

    def exchange(table: Any, next_size: int) -> window.Exchanged:
        now[0] += 100.0
        return window.exchange_alone(table, next_size)

    written: list[Step] = []
    train(Ticking(), 20, CpuClock(), exchange, written.extend)
    assert {record.time_s for record in written} == {0.5}
    assert {record.data_s for record in written} == {0.25}


def test_windows_grow_and_then_keep_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    class Slow(CountingTrainer):
        def step(self, batch: int) -> StepResult:
            now[0] += 0.5
            return super().step(batch)

    windows: list[int] = []
    train(Slow(), 22, CpuClock(), window.exchange_alone, lambda records: windows.append(len(records)))
    assert windows == [1, 2, 4, 5, 5, 5]
    assert all(later <= 2 * earlier for earlier, later in pairwise(windows))


def test_a_phase_inside_another_is_no_part_of_it_and_equal_ones_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    told: list[tuple[str, float]] = []
    phases = Phases(lambda name, seconds: told.append((name, seconds)))
    with phases("train"):
        for lasted in (2.0, 3.0):
            now[0] += 10.0
            with phases("checkpoint"):
                now[0] += lasted
        now[0] += 1.0
    assert told == [("checkpoint", 2.0), ("checkpoint", 3.0), ("train", 21.0)]
    assert phases.seconds == {"checkpoint": 5.0, "train": 21.0}
