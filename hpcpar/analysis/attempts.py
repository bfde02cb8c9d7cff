"""The updates that a run's result is made of, over all its attempts; and what was done for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hpcpar.records import Cause, Event, RunRecord, Step
from hpcpar.runs import RunFolder


class History(NamedTuple):
    """Made by `read_history`."""

    steps: list[Step]
    """Those that count, each attempt's in the order of its file."""
    rejected_lines: int
    begins: tuple[int, ...]
    """The numbers of the updates with which an attempt began: what follows them is warm-up."""
    replayed_steps: int
    """Updates that were recorded and then done again by a later attempt."""
    goodput: float | None
    """Seconds of the updates that count, over the seconds of all attempts that led to them."""


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
    readings = {name: folder.steps(name) for name in {*attempts, attempt} if name}
    kept: list[Step] = []
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
    return History(kept, rejected, begins, done - len(kept), _goodput(folder, kept, record, led_here))


def _goodput(folder: RunFolder, kept: list[Step], record: RunRecord | None, attempts: list[str]) -> float | None:
    if record is None:
        return None
    earlier_s = sum(_lasted_s(folder, name) for name in attempts if name != record.attempt)
    wall_s = earlier_s + record.ended - record.started
    good_s = sum(step.time_s + step.data_s for step in kept)
    return good_s / wall_s if 0 < good_s <= wall_s else None  # a share above one comes of damaged numbers


def _ended_well(folder: RunFolder, attempt: str) -> bool:
    """Say whether an attempt reached its own result: it is not what a later one lost."""
    return any(e.kind == "exit" and e.data.get("cause") == str(Cause.OK) for e in _events(folder, attempt))


def _lasted_s(folder: RunFolder, attempt: str) -> float:
    times = [event.time for event in _events(folder, attempt)]
    return max(times) - min(times) if times else 0.0


def _events(folder: RunFolder, attempt: str) -> list[Event]:
    return folder.events(attempt).records
