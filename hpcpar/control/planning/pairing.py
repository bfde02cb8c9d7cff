"""Runs that are to be compared share a job: the same nodes, one after the other, in a drawn order (`--paired`).

A job has every strategy of one size and one repeat. What drifts during a study, or differs between nodes, then meets
all of them alike, and the collector compares them pair by pair.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hpcpar.spec import Resources

if TYPE_CHECKING:
    from hpcpar.control.plan import PlannedRun

BETWEEN_S = 60.0
"""What a job has for each of its runs beside their own limits: an end that takes its time, and the next start."""


class Job(NamedTuple):
    """What the scheduler gets as one job: a run, or runs that share it, in their order."""

    runs: tuple[PlannedRun, ...]
    resources: Resources


def word(resources: Resources, repeat: int) -> str:
    """Return what runs of one size and repeat have in common."""
    return f"{resources.nodes}x{resources.ranks_per_node}-r{repeat}"


def drawn(cells: Sequence[Any], repeat: int) -> Iterable[Any]:
    """Return the cells of a repeat in their order of execution: size by size, drawn within it where they are paired.

    The order follows from the study's seed, so that planning it again gives the same; each run records its place.
    """
    if not cells or not cells[0][0].study.paired:
        return cells
    by_size: dict[str, list[Any]] = {}
    for one in cells:
        by_size.setdefault(word(one[1].resources, repeat), []).append(one)
    for size, group in by_size.items():
        random.Random(f"{group[0][0].study.seed}:{size}").shuffle(group)
    return [one for group in by_size.values() for one in group]


def jobs(runs: Iterable[PlannedRun]) -> list[Job]:
    """Put runs into jobs: those of one pair that ask for the same share one, each other has its own."""
    shared: dict[tuple[str, Resources], list[PlannedRun]] = {}
    for run in runs:
        same = msgspec.structs.replace(run.resources, time_s=0.0)
        shared.setdefault((run.spec.pair or run.spec.run_name, same), []).append(run)
    return [as_job(tuple(group)) for group in shared.values()]


def as_job(runs: tuple[PlannedRun, ...]) -> Job:
    """Return the job of these runs, which ask for the same but for their time."""
    resources = runs[0].resources
    if len(runs) == 1:
        return Job(runs, resources)
    longest_s = max(run.resources.time_s for run in runs)
    time_s = len(runs) * (longest_s + BETWEEN_S)
    return Job(runs, msgspec.structs.replace(resources, time_s=time_s, run_time_s=longest_s))
