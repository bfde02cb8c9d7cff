"""The updates that a run's result is made of, over all its attempts; and what was done for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hpcpar.analysis.rows.window import LONGEST_S
from hpcpar.records import Cause, Event, RunRecord, StepTime
from hpcpar.runs import RunFolder

CLOCKS_AGREE = 0.01
"""Phases add up to the wall time within this share."""


class History(NamedTuple):
    """Made by `read_history`."""

    steps: list[StepTime]
    """Those that count, each attempt's in the order of its file."""
    rejected_lines: int
    begins: tuple[int, ...]
    """The numbers of the updates with which an attempt began: what follows them is warm-up."""
    replayed_steps: int
    """Updates that were recorded and then done again by a later attempt."""
    goodput: Goodput | None
    """None without a result."""
    phases: dict[str, float]
    """Seconds from the scheduler's acceptance to the result, by phase; empty without a result."""


class Goodput(NamedTuple):
    """What became of the seconds of all attempts that led to a result."""

    effective_time_ratio: float
    """Share of them that went into the updates that count (waits for samples included)."""
    goodput_updates_per_s: float
    """Updates that count, over all of them."""


def read_history(folder: RunFolder, attempt: str, record: RunRecord | None, attempts: Sequence[str]) -> History:
    """Read the steps of a run.

    Args:
        folder: the run's folder.
        attempt: the one that made the record, else the latest; "" where there is none.
        record: the result, where there is one.
        attempts: all attempts, oldest first, whose names may become file names.
    """
    # One span an attempt, whatever a damaged record says: no step may count twice.
    spans = list(
        {s.attempt: s for s in (record.lineage if record is not None else []) if s.attempt in attempts}.values()
    )
    readings = {name: folder.step_times(name) for name in {*attempts, attempt} if name}
    kept: list[StepTime] = []
    if spans:
        for span in spans:
            kept += [step for step in readings[span.attempt].records if span.first <= step.step <= span.last]
    elif attempt:
        kept = list(readings[attempt].records)
    counted = {span.attempt for span in spans} or {attempt} - {""}
    rejected = sum(readings[name].rejected for name in counted)
    begins = tuple(span.first for span in spans) or (1,)
    led_here = [name for name in attempts if name in counted or not _ended_well(folder, name)]
    done = sum(len(readings[name].records) for name in {*led_here, *counted})
    goodput, phases = None, {}
    if record is not None:
        spans_s = {name: _span_s(folder, name) for name in led_here if name != record.attempt}
        earlier = {name: span for name, span in spans_s.items() if span and span[0] <= record.started}
        goodput = _goodput(kept, record, sum(end - begin for begin, end in earlier.values()))
        phases = _phases(folder, record, earlier)
    return History(kept, rejected, begins, done - len(kept), goodput, phases)


def _goodput(kept: list[StepTime], record: RunRecord, earlier_s: float) -> Goodput | None:
    good = {step.step: step for step in kept if step.applied}
    wall_s = earlier_s + record.ended - record.started
    good_s = sum([step.time_s for step in good.values()]) + sum([step.data_s for step in good.values()])
    if not 0 < good_s <= wall_s:  # a share above one comes of damaged numbers
        return None
    return Goodput(good_s / wall_s, (1 if record.whole_program else len(good)) / wall_s)


def _phases(folder: RunFolder, record: RunRecord, earlier: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Return where all seconds went from the scheduler's acceptance on; they add up to these seconds.

    Without a word of when that was, they are those from the first rank's start on, and there is no "queue".
    """
    phases = dict(record.phases)
    begun = min([begin for begin, _ in earlier.values()], default=record.started)
    first = min(earlier, key=lambda name: earlier[name][0], default=record.attempt)
    accepted = _accepted(folder, first)
    if accepted is not None and 0 <= begun - accepted <= LONGEST_S:
        phases["queue"] = begun - accepted
    if earlier:
        phases["earlier"] = sum(end - begin for begin, end in earlier.values())
    total_s = record.ended - begun + phases.get("queue", 0.0)
    idle_s = total_s - sum(phases.values())
    # Clocks of two machines, or of one that is set right, may differ a little; more is damage.
    return {**phases, "idle": max(0.0, idle_s)} if idle_s >= -CLOCKS_AGREE * total_s else record.phases


def _accepted(folder: RunFolder, attempt: str) -> float | None:
    """Return when the scheduler took the job of this attempt, where submission.jsonl says so."""
    job = attempt.rpartition(".")[0]
    times = [line.time for line in folder.submissions() if line.kind == "submitted" and line.job_id == job]
    return times[-1] if times else None


def _ended_well(folder: RunFolder, attempt: str) -> bool:
    """Say whether an attempt reached its own result: it is not what a later one lost."""
    return any(e.kind == "exit" and e.data.get("cause") == str(Cause.OK) for e in _events(folder, attempt))


def _span_s(folder: RunFolder, attempt: str) -> tuple[float, float] | None:
    times = [event.time for event in _events(folder, attempt)]
    return (min(times), max(times)) if times else None


def _events(folder: RunFolder, attempt: str) -> list[Event]:
    return folder.events(attempt).records
