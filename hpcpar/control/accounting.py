"""Note in the run folders what the scheduler's accounting says that their jobs used: `collect` sets it beside what they
measured themselves. Safe to repeat; a job is asked for until its last word has come."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from hpcpar import records
from hpcpar.control import slurm
from hpcpar.control.reconcile import UNFINISHED
from hpcpar.errors import NoSchedulerError, SchedulerError, StorageError
from hpcpar.outcome import Live
from hpcpar.runs import RunFolder, StudyFolder
from hpcpar.spec import Accounting, Submission

LONG_AGO_S = 3600.0
"""What the accounting does not know so long after the submission, it will not know any more."""
_NOT_OVER = frozenset({"queued", "running"})


class _Job(NamedTuple):
    run: RunFolder
    submission: Submission


def note_accounting(studies: Iterable[StudyFolder], live: Mapping[Path, Live]) -> list[str]:
    """Write what sacct says of every job that is over, and of which nothing is noted; return what went wrong.

    A site without accounting is no trouble: then nothing is noted, and the tables say so.

    Args:
        studies: whose runs.
        live: what the queue holds, by the run's folder.
    """
    wanted = [job for study in studies for run in study.runs() for job in _unaccounted(run, live.get(run.path))]
    if not wanted:
        return []
    try:
        rows = slurm.sacct_usage([job.submission.job_id.partition("_")[0] for job in wanted])
    except (SchedulerError, NoSchedulerError):
        return []
    by_job: dict[str, list[slurm.UsageRow]] = defaultdict(list)
    for row in rows:
        by_job[row.job_id].append(row)
    trouble = []
    for job in wanted:
        found = usage(by_job[job.submission.job_id])
        old = job.submission.time + LONG_AGO_S < time.time()
        if found is None and (by_job[job.submission.job_id] or not old):
            continue  # it is not over, or sacct lags
        try:
            _note(job, found or Accounting(state=""))
        except StorageError as error:
            trouble.append(f"{job.run.path.name}: what it used cannot be noted: {error.problems[0].what}")
    return trouble


def usage(rows: Iterable[slurm.UsageRow]) -> Accounting | None:
    """Add up the starts of one job; None where it is not over, or not known.

    Of a start and its steps the largest energy counts: the batch step's is in the job's already.
    """
    starts: list[list[slurm.UsageRow]] = []
    for row in rows:
        if not row.is_step:
            starts.append([row])
        elif starts:
            starts[-1].append(row)
    if not starts or starts[-1][0].state in UNFINISHED:
        return None
    held = [lines[0] for lines in starts]
    energy_j = sum(max(line.energy_j for line in lines) for lines in starts)
    peak = max(line.max_rss_bytes for lines in starts for line in lines)
    return Accounting(
        state=held[-1].state,
        elapsed_s=sum(one.elapsed_s for one in held),
        node_s=sum(one.elapsed_s * one.nodes for one in held),
        nodes=held[-1].nodes,
        peak_memory_bytes=peak or None,
        energy_j=energy_j or None,
    )


def _unaccounted(run: RunFolder, live: Live | None) -> list[_Job]:
    lines = run.submissions()
    noted = {line.job_id for line in lines if line.kind == "accounted"}
    open_jobs = [
        line for line in lines if line.kind == "submitted" and line.scheduler == "slurm" and line.job_id not in noted
    ]
    if live is not None and live.state in _NOT_OVER:
        open_jobs = open_jobs[:-1]  # the latest is not over
    return [_Job(run, line) for line in open_jobs]


def _note(job: _Job, found: Accounting) -> None:
    line = Submission(
        kind="accounted",
        time=time.time(),
        batch=job.submission.batch,
        scheduler=job.submission.scheduler,
        job_id=job.submission.job_id,
        accounting=found,
    )
    records.append(job.run.submission_path, line)
