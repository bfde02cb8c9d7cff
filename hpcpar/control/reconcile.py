"""Bring what the run folders know and what the scheduler knows together, and keep what the scheduler will forget.

Three things happen here, all of them safe to repeat and safe to be killed in:
adopt   a submission whose answer was lost (submit was killed) is found again by its tag and noted in its runs;
ask     one squeue for all jobs, one sacct for each 200 array ids that left the queue, none when every run has ended;
        a second squeue before a job is called gone of which nobody has said how it ended;
settle  a final word of the scheduler is written into the run's submission.jsonl.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hpcpar.control import elsewhere, local_queue, slurm
from hpcpar.control.noting import Knowledge, adopt, give_up, intent_of, note_what_can_be
from hpcpar.control.pending import in_words
from hpcpar.errors import NoSchedulerError, SchedulerError, StorageError
from hpcpar.outcome import Live, is_outdated, result_of
from hpcpar.runs import BatchFolder, RunFolder, StudyFolder, batch_tag
from hpcpar.spec import Submission

ACCOUNTING_LAG_S = 30.0
"""So long sacct may know nothing of a job that has left the queue."""
SECOND_LOOK_S = 2.0
"""So long after the first look the second one comes: a busy controller may leave an array out of an answer, and a run
that is called gone may be sent again."""
_ENDING = frozenset({"COMPLETING", "STAGE_OUT"})
_WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
)
UNFINISHED = frozenset({"", "PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "COMPLETING", "CONFIGURING"})


class _Open(NamedTuple):
    """A run that has not ended, and its latest submission."""

    run: RunFolder
    submission: Submission

    @property
    def job(self) -> str:
        return self.submission.job_id.partition("_")[0]

    @property
    def task(self) -> int | None:
        task = self.submission.job_id.partition("_")[2]
        return int(task) if task.isdigit() else None


def reconcile(studies: Iterable[StudyFolder]) -> Knowledge:
    """Adopt, ask and settle for all runs of these studies; see the module."""
    studies = list(studies)
    known = Knowledge({}, [])
    lost = [batch for study in studies for batch in _note_accepted(study, known)]
    open_runs = [found for study in studies for run in study.runs() if (found := _open(run)) is not None]
    _local(open_runs, lost, known)
    on_slurm = [one for one in open_runs if one.submission.scheduler == "slurm"]
    lost_slurm = [batch for batch in lost if intent_of(batch).scheduler == "slurm"]
    if on_slurm or lost_slurm:
        try:
            _slurm(on_slurm, lost_slurm, known)
        except (SchedulerError, NoSchedulerError) as error:
            known.trouble.append(f"the scheduler could not be asked: {error}")
            return known._replace(unasked=str(error))
    return known


def _open(run: RunFolder) -> _Open | None:
    submissions = run.submissions()
    submitted = next((line for line in reversed(submissions) if line.kind == "submitted"), None)
    if run.has_record():
        again = sum(line.kind == "submitted" for line in submissions) > 1
        result = result_of(run) if again else None  # only a second submission can outdate a result
        if result is None or not (result.wrong or (result.record and is_outdated(result.record, submitted))):
            return None
    if submitted is None or any(s.kind == "ended" and s.job_id == submitted.job_id for s in submissions):
        return None
    return _Open(run, submitted)


# ---------------------------------------------------------------- adopt


def _note_accepted(study: StudyFolder, known: Knowledge) -> list[BatchFolder]:
    """Give every run of an accepted batch its submission line; return the batches whose answer is missing."""
    lost = []
    for folder in study.batches():
        batch = folder.read()
        if batch.accepted is not None:
            note_what_can_be(folder, batch, known)
        elif batch.intent is not None and batch.refused is None:
            lost.append(folder)
    return lost


# ---------------------------------------------------------------- local


def _local(open_runs: list[_Open], lost: list[BatchFolder], known: Knowledge) -> None:
    for folder in lost:
        intent = intent_of(folder)
        if intent.scheduler != "local":
            continue
        queue = Path(intent.queue) if intent.queue else None
        if local_queue.holds(folder, queue) or _attempt_of(folder, {local_queue.job_id_of(folder.key, 0, 2)}):
            adopt(folder, local_queue.job_id_of(folder.key, 0, 1), known)
        elif elsewhere.may_give_up(intent):
            give_up(folder, known)
    local = [one for one in open_runs if one.submission.scheduler == "local"]
    mine = [one for one in local if not elsewhere.queue_of(one.submission)]
    if mine:
        states = local_queue.live_states()
        known.live.update({one.run.path: states.get(one.submission.job_id, Live("gone")) for one in mine})
    known.live.update(elsewhere.states(one for one in local if elsewhere.queue_of(one.submission)))


def _attempt_of(folder: BatchFolder, job_ids: set[str]) -> bool:
    runs = folder.read().runs.values()
    return any(a.rpartition(".")[0] in job_ids for name in runs for a in folder.study.run(name).attempts())


# ---------------------------------------------------------------- slurm


def _slurm(open_runs: list[_Open], lost: list[BatchFolder], known: Knowledge) -> None:
    queue = slurm.squeue()
    _find_lost(lost, queue, known)
    left = _look(open_runs, queue, known.live)
    gone = _ask_accounting(left, known.live, known.trouble) if left else {}
    if gone:
        time.sleep(SECOND_LOOK_S)
        still = _look([one for one in left if one.run.path in gone], slurm.squeue(), known.live)
        for one in still:
            why = gone[one.run.path]
            if why is not None:
                _settle(one, "", "", why, known.trouble)
            known.live[one.run.path] = Live("gone")


def _look(open_runs: list[_Open], queue: list[slurm.QueueRow], live: dict[Path, Live]) -> list[_Open]:
    """Note the state of the runs that are in the queue, and return the others.

    A row of an array that does not say which of its tasks it is stands for all that have no row of their own.
    """
    by_task = {(row.job, task): row for row in queue for task in (row.tasks or {None})}
    restarts = _restarts(open_runs)
    left = []
    for one in open_runs:
        row = by_task.get((one.job, one.task)) or by_task.get((one.job, None))
        if row is None:
            left.append(one)
        else:
            found = _from_queue(row)
            live[one.run.path] = _of_shared(one, found, restarts) if one.submission.shared else found
    return left


def _restarts(open_runs: list[_Open]) -> dict[str, int]:
    """Return of jobs that several runs share how often each was started anew, as far as its runs' attempts tell."""
    found: dict[str, int] = {}
    for one in open_runs:
        if one.submission.shared:
            job_id = one.submission.job_id
            found[job_id] = max(found.get(job_id, 0), _restart(one))
    return found


def _restart(one: _Open) -> int:
    """Return the number of the run's latest attempt in its job; -1 where it has none."""
    names = [name.rpartition(".") for name in one.run.attempts()]
    return max((int(n) for job, _, n in names if job == one.submission.job_id and n.isdecimal()), default=-1)


def _of_shared(one: _Open, job: Live, restarts: dict[str, int]) -> Live:
    """Return what a run is at in a job that it shares: its turn may not have come yet, or be over."""
    if job.state != "running":
        return job
    restart = _restart(one)
    if restart < restarts[one.submission.job_id] or restart < 0:
        return Live("queued", reason="its job runs, and its turn has not come")
    events = one.run.events(f"{one.submission.job_id}.{restart}").records
    return Live("gone") if any(event.kind == "script_exit" for event in events) else job


def _find_lost(lost: list[BatchFolder], queue: list[slurm.QueueRow], known: Knowledge) -> None:
    """Find submissions without an answer by their tag: in the queue, in their own runs' events, in the accounting."""
    names = {batch_tag(folder.study.name, folder.key): folder for folder in lost}
    for row in queue:
        if row.name in names:
            adopt(names.pop(row.name), row.job, known)
    for name, folder in list(names.items()):
        job_id = _job_that_ran(folder)
        if job_id:
            adopt(names.pop(name), job_id, known)
    if not names:
        return
    oldest = min(intent_of(folder).time for folder in names.values())
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(oldest - 120))
    try:
        for found in slurm.sacct_by_name(sorted(names), since):
            if found.name in names:
                adopt(names.pop(found.name), found.job, known)
    except SchedulerError as error:
        known.trouble.append(f"accounting does not answer: {error.stderr or error}")
    for folder in names.values():
        give_up(folder, known)


def _job_that_ran(folder: BatchFolder) -> str:
    """Return the job id under which a run of this batch wrote events, where no known submission explains them."""
    for name in folder.read().runs.values():
        run = folder.study.run(name)
        known = {line.job_id for line in run.submissions()}
        for attempt in run.attempts():
            job_id = attempt.rpartition(".")[0]
            if job_id not in known and not job_id.startswith(local_queue.JOB_PREFIX):
                return job_id.partition("_")[0]
    return ""


def _from_queue(row: slurm.QueueRow) -> Live:
    if row.state in _ENDING:
        return Live("ending", nodes=row.nodes)
    if row.state in _WAITING:
        return Live("queued", reason=in_words(row.reason), starts=slurm.moment(row.start))
    return Live("running", elapsed_s=slurm.elapsed_s(row.elapsed), nodes=row.nodes)


def _ask_accounting(left: list[_Open], live: dict[Path, Live], trouble: list[str]) -> dict[Path, str | None]:
    """Ask sacct for what has left the queue; write down what is final.

    Returns:
        The runs of which nobody knows how they ended, and what their end is to be noted with; None: it is not, as the
        accounting takes them to be under way.
    """
    accounting = True
    rows: list[slurm.AccountingRow] = []
    try:
        rows = slurm.sacct([one.job for one in left])
    except (SchedulerError, NoSchedulerError) as error:
        accounting = False
        trouble.append(f"accounting does not answer, the runs' own records speak for them: {error}")
    by_task = {(found.job, task): found for found in rows for task in (found.tasks or {None})}
    gone: dict[Path, str | None] = {}
    for one in left:
        word = by_task.get((one.job, one.task))
        if word is not None and word.state not in UNFINISHED:
            _settle(one, word.state, word.exit_code, word.reason, trouble)
        elif not accounting:
            gone[one.run.path] = "accounting is off"
        elif _last_sign(one) + ACCOUNTING_LAG_S < time.time():
            gone[one.run.path] = "" if word is None else None
        else:
            live[one.run.path] = Live("ending")
    return gone


def _last_sign(one: _Open) -> float:
    """Return when the run or its submission last showed a sign of life."""
    return max(one.submission.time, one.run.last_written())


def _settle(one: _Open, state: str, exit_code: str, reason: str, trouble: list[str]) -> None:
    line = Submission(
        kind="ended",
        time=time.time(),
        batch=one.submission.batch,
        scheduler="slurm",
        job_id=one.submission.job_id,
        state=state,
        exit_code=exit_code,
        reason=reason,
    )
    try:
        one.run.add_submission(line)
    except StorageError as error:  # on a full disk the answer is as good; the next look writes it down
        trouble.append(
            f"{one.run.path.name} ended ({state or 'unknown'}), which cannot be noted: {error.problems[0].what}"
        )
