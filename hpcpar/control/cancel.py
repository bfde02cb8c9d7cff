"""End runs on purpose: what waits is taken out of the queue, what runs is stopped, and the run says so for ever."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hpcpar import records
from hpcpar.control import elsewhere, local_queue, slurm
from hpcpar.control.reconcile import reconcile
from hpcpar.errors import InputError, Problem
from hpcpar.outcome import CANCELLED_BY_USER, decide
from hpcpar.runs import RunFolder, StudyFolder
from hpcpar.spec import Submission

UNDER_WAY = frozenset({"submitted", "queued", "running"})


class _Target(NamedTuple):
    run: RunFolder
    submission: Submission


def under_way(runs: Iterable[RunFolder]) -> tuple[list[RunFolder], list[str]]:
    """Return which of these runs wait or run, and what stood in the way of knowing it.

    The scheduler is asked as `status` asks it.
    """
    runs = list(runs)
    studies = {run.path.parent: StudyFolder(run.path.parent) for run in runs}
    knowledge = reconcile(studies.values())
    found = [run for run in runs if decide(run, knowledge.live.get(run.path)).state in UNDER_WAY]
    return found, knowledge.trouble


def cancel(runs: Iterable[RunFolder], *, dry_run: bool = False) -> int:
    """Cancel runs that wait or run; return how many. A run that ended by itself in the meantime keeps its result.

    `dry_run`: only refuse what would be refused.

    Raises:
        InputError: a run shares its job with others that are not named, or is in another local queue.
        SchedulerError, NoSchedulerError: Slurm did not take the order; its runs are as they were.
    """
    targets = [target for run in runs if (target := _target(run)) is not None]
    _refuse(targets)
    if dry_run:
        return len(targets)
    here = [target for target in targets if target.submission.scheduler == "local"]
    _note(here)  # first: the queue passes over what is noted
    local_queue.stop({target.submission.job_id for target in here})
    there = [target for target in targets if target.submission.scheduler == "slurm"]
    if there:
        slurm.scancel(sorted(_words(there)))
        _note(there)
    return len(targets)


def _refuse(targets: list[_Target]) -> None:
    """Refuse what cannot be ended from here, or not alone."""
    problems = [*_not_here(targets), *_parts(targets)]
    if problems:
        raise InputError(problems)


def _not_here(targets: list[_Target]) -> Iterable[Problem]:
    """Yield the runs of other local queues: a process of another machine, or of other records, cannot be ended."""
    for run, submitted in targets:
        if elsewhere.queue_of(submitted):
            what = f"belongs to {elsewhere.in_words(submitted.queue)}"
            yield Problem(run.path.name, what, "cancel it there, or name only other runs")


def _parts(targets: list[_Target]) -> Iterable[Problem]:
    """Yield the runs that share a job with others that nobody named."""
    named = {target.run.path for target in targets}
    for run, submitted in targets:
        if submitted.shared:
            others = [path for path in _sharing(run, submitted) if path not in named]
            if others:
                names = ", ".join(path.name for path in others)
                yield Problem(run.path.name, "shares its job with other runs", f"name them too: {names}")


def _sharing(run: RunFolder, submitted: Submission) -> list[Path]:
    """Return the runs of this run's job that have no result yet."""
    study = StudyFolder(run.path.parent)
    batch = study.batch(submitted.batch).read()
    tasks = {batch.task(index) for index, name in batch.runs.items() if name == run.path.name}
    names = [name for index, name in batch.runs.items() if batch.task(index) in tasks]
    return [study.run(name).path for name in names if not study.run(name).has_record()]


def _target(run: RunFolder) -> _Target | None:
    lines = [line for line in run.submissions() if line.kind == "submitted"]
    return _Target(run, lines[-1]) if lines else None


def _words(targets: list[_Target]) -> Iterable[str]:
    """Yield what scancel is told: one word a job, however many of its tasks."""
    tasks: dict[str, list[int]] = {}
    for target in targets:
        job, _, task = target.submission.job_id.partition("_")
        tasks.setdefault(job, []).extend([int(task)] if task.isdigit() else [])
    for job, indices in tasks.items():
        yield f"{job}_[{','.join(map(str, sorted(indices)))}]" if indices else job


def _note(targets: list[_Target]) -> None:
    for run, submitted in targets:
        line = Submission(
            kind="ended",
            time=time.time(),
            batch=submitted.batch,
            scheduler=submitted.scheduler,
            job_id=submitted.job_id,
            state="CANCELLED",
            reason=CANCELLED_BY_USER,
        )
        records.append(run.submission_path, line)
