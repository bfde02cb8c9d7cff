"""Send failed runs again, as they were planned: a new attempt in the same folder, and never beside a job that lives.

Which: those that failed and, where no cause is named, those that were planned and never taken. What a user cancelled
stays cancelled unless the cause is named. What is under way, done, or still in the scheduler's queue is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from hpcpar import __version__
from hpcpar.control import slurm
from hpcpar.control.again import requests
from hpcpar.control.reconcile import reconcile
from hpcpar.control.submit import Prepared, Wish, prepare
from hpcpar.errors import InputError, Problem, SchedulerError
from hpcpar.outcome import Outcome, decide
from hpcpar.records import Cause
from hpcpar.runs import RunFolder, StudyFolder

NOT_TAKEN = "planned"


class Candidate(NamedTuple):
    """A run that can be sent again, and what became of it."""

    run: RunFolder
    outcome: Outcome

    @property
    def study(self) -> StudyFolder:
        """The study it belongs to."""
        return StudyFolder(self.run.path.parent)


def look(runs: Iterable[RunFolder]) -> tuple[list[Candidate], list[str]]:
    """Ask what became of these runs; return those that failed or were never taken, and what stood in the way.

    Raises:
        SchedulerError: the scheduler could not be asked, so that nobody knows what lives.
    """
    runs = list(runs)
    knowledge = reconcile({run.path.parent: StudyFolder(run.path.parent) for run in runs}.values())
    if knowledge.unasked:
        raise SchedulerError("squeue", f"{knowledge.unasked}; nothing is sent again while nobody knows what lives")
    found = [Candidate(run, decide(run, knowledge.live.get(run.path))) for run in runs]
    return [one for one in found if one.outcome.state in ("failed", NOT_TAKEN)], knowledge.trouble


def choose(candidates: Iterable[Candidate], causes: Iterable[str] = ()) -> list[Candidate]:
    """Choose what is needed: of these causes, or of all but `cancelled`."""
    wanted = set(causes)
    if wanted:
        return [one for one in candidates if one.outcome.cause is not None and str(one.outcome.cause) in wanted]
    return [one for one in candidates if one.outcome.cause != Cause.CANCELLED]


def prepare_again(
    candidates: Iterable[Candidate],
    wishes: Mapping[Path, Wish],
    changes: Mapping[str, str] | None = None,
    *,
    new_code: bool = False,
) -> list[Prepared]:
    """Prepare the submission of these runs, a Prepared for every request and code they come from; writes nothing.

    `changes` replaces resources of the study: "time", "memory". A run's own code is what it was when the run was first
    sent, unless `new_code` asks for the files as they are now.

    Raises:
        InputError: a run was planned by nothing that its study was asked for.
        SchedulerError: squeue did not answer.
    """
    by_study: dict[Path, list[Candidate]] = {}
    for one in _without_living(list(candidates)):
        by_study.setdefault(one.study.path, []).append(one)
    found: list[Prepared] = []
    problems: list[Problem] = []
    for path, group in by_study.items():
        requests.refuse_foreign(StudyFolder(path))
        by_code: dict[str | None, dict[str, Wish]] = {}
        for one in group:
            wish = wishes.get(one.run.path, Wish("resubmit"))
            by_code.setdefault(None if new_code else _code_of(one.run), {})[one.run.path.name] = wish
        ready: list[Prepared] = []
        for code, wanted in by_code.items():
            ready += _prepare_study(StudyFolder(path), wanted, changes or {}, problems, code=code, before=ready)
        found += ready
    if problems:
        raise InputError(problems)
    return [one for one in found if one.batches]


def _code_of(run: RunFolder) -> str | None:
    """Return the digest of the code with which a run was sent; None where it never was."""
    return next((line.code_sha256 for line in run.submissions() if line.kind == "submitted"), None)


def _prepare_study(
    study: StudyFolder,
    wanted: dict[str, Wish],
    changes: Mapping[str, str],
    problems: list[Problem],
    *,
    code: str | None,
    before: list[Prepared],
) -> list[Prepared]:
    """Plan the study's requests once more, the newest first, until every wanted run is found.

    `before` is what the same command sends of this study before.
    """
    left = dict(wanted)
    found: list[Prepared] = []
    for asked in reversed(requests.read(study)):
        if not left:
            break
        if asked.study.name != study.name:
            fix = "give the folder its old name back, or submit the study anew"
            problems.append(Problem(str(study.path), f"is the folder of study '{asked.study.name}'", fix))
            return []
        request = requests.as_request(requests.changed(asked, changes), study, __version__)
        batches = [batch for one in (*before, *found) for batch in one.batches]
        queued = sum(len(batch.jobs) for batch in batches)
        prepared = prepare(request._replace(only=left, code=code, after=len(batches), queued=queued))
        planned = {run.spec.run_name for run in prepared.plan.runs}
        left = {name: wish for name, wish in left.items() if name not in planned}
        found.append(prepared)
    if left:
        names = ", ".join(sorted(left)[:5]) + (", ..." if len(left) > 5 else "")
        fix = "`hpcpar submit` of the study sends them again, once it holds them"
        problems.append(Problem(str(study.path), f"no request of this study plans {names}", fix))
    return found


def _without_living(candidates: list[Candidate]) -> list[Candidate]:
    """Leave out what the queue still holds: an administrator can requeue a job that has ended."""
    last = {one.run.path: _last_job(one.run) for one in candidates}
    if not any(job and job[0] == "slurm" for job in last.values()):
        return candidates
    queue = {(row.job, task) for row in slurm.squeue() for task in (row.tasks or {None})}
    return [one for one in candidates if not _lives(last[one.run.path], queue)]


def _last_job(run: RunFolder) -> tuple[str, str] | None:
    return next(((s.scheduler, s.job_id) for s in reversed(run.submissions()) if s.kind == "submitted"), None)


def _lives(job: tuple[str, str] | None, queue: set[tuple[str, int | None]]) -> bool:
    if job is None or job[0] != "slurm":
        return False
    number, _, task = job[1].partition("_")
    return (number, int(task) if task.isdigit() else None) in queue
