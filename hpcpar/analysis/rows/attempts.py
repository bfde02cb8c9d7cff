"""The updates that a run's result is made of, over all its attempts; and what was done for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hpcpar.analysis.rows.window import SoundStep, Window
from hpcpar.records import LONGEST_S, Cause, Event, Reading, RunRecord, StepTime
from hpcpar.runs import RunFolder

CLOCKS_AGREE = 0.01
"""Phases add up to the wall time within this share."""


class History(NamedTuple):
    """Made by `read_history`."""

    steps: list[StepTime] | list[SoundStep]
    """Those that count, each attempt's in the order of its file."""
    rejected_lines: int
    begins: tuple[int, ...]
    """The numbers of the updates with which an attempt began: what follows them is warm-up."""
    replayed_steps: int
    """Updates that were recorded and then done again by a later attempt."""
    sound: bool
    """The steps are `SoundStep`: nothing of their files was damaged."""
    wall_s: float | None
    """Seconds of all attempts that led to the result; None without one."""
    phases: dict[str, float]
    """Seconds from the scheduler's acceptance to the result, by phase; empty without a result."""


def read_history(
    folder: RunFolder, attempt: str, record: RunRecord | None, attempts: Sequence[str], *, losses: bool
) -> History:
    """Read the steps of a run.

    Args:
        folder: the run's folder.
        attempt: the one that made the record, else the latest; "" where there is none.
        record: the result, where there is one.
        attempts: all attempts, oldest first, whose names may become file names.
        losses: the losses of the steps are needed.
    """
    # One span an attempt, whatever a damaged record says: no step may count twice.
    spans = list(
        {s.attempt: s for s in (record.lineage if record is not None else []) if s.attempt in attempts}.values()
    )
    readings, sound = _read_steps(folder, {*attempts, attempt} - {""}, losses=losses)
    kept: list[StepTime] | list[SoundStep] = []
    if spans:
        for span in spans:
            kept += [step for step in readings[span.attempt].records if span.first <= step.step <= span.last]
    elif attempt:
        kept = readings[attempt].records
    counted = {span.attempt for span in spans} or {attempt} - {""}
    rejected = sum(readings[name].rejected for name in counted)
    begins = tuple(span.first for span in spans) or (1,)
    led_here = [name for name in attempts if name in counted or not _ended_well(folder, name)]
    done = sum(len(readings[name].records) for name in {*led_here, *counted})
    wall_s: float | None = None
    phases: dict[str, float] = {} if record is None else dict(record.phases)
    if record is not None and record.wall_s is not None:
        spans_s = {name: _span_s(folder, name) for name in led_here if name != record.attempt}
        earlier = {name: span for name, span in spans_s.items() if span and span[0] <= record.started}
        wall_s = sum(end - begin for begin, end in earlier.values()) + record.wall_s
        phases = _phases(folder, record, earlier)
    return History(kept, rejected, begins, done - len(kept), sound, wall_s, phases)


def _read_steps(folder: RunFolder, attempts: set[str], *, losses: bool) -> tuple[dict[str, Reading], bool]:
    """Read the steps of these attempts; and say whether they are sound, which only an undamaged file's are."""
    if not losses:
        sound = {name: folder.undamaged_steps(name, SoundStep) for name in attempts}
        if None not in sound.values():
            return {name: Reading(steps, 0) for name, steps in sound.items() if steps is not None}, True
    return {name: folder.step_times(name) for name in attempts}, False


def goodput(window: Window, wall_s: float | None, *, whole: bool) -> dict[str, Any]:
    """Return what became of the seconds of all attempts that led to a result; empty where it is not known.

    effective_time_ratio is the share of them that went into the updates that count (waits for samples included),
    goodput_updates_per_s these updates over all of them. `whole`: a step is a whole program.
    """
    if wall_s is None or not 0 < window.updates_s <= wall_s:  # a share above one comes of damaged numbers
        return {}
    updates = 1 if whole else window.updates
    return {"effective_time_ratio": window.updates_s / wall_s, "goodput_updates_per_s": updates / wall_s}


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
