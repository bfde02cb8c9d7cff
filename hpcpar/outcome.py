"""What became of a run: one decision, used by status and collect alike.

It merges what the run wrote about itself (record, events) with what the scheduler said (kept in submission.jsonl,
because the scheduler forgets), and with what the scheduler says right now, where somebody asked. The run's own words
come first: accounting lags, is off, or is purged.
"""

from __future__ import annotations

from typing import NamedTuple

from hpcpar.records import Cause, Event, Head, RunRecord, span_s
from hpcpar.runs import RunFolder
from hpcpar.spec import SCHEMA, Submission

SCHEDULER_CAUSES = {
    "TIMEOUT": Cause.TIMEOUT,
    "DEADLINE": Cause.TIMEOUT,
    "OUT_OF_MEMORY": Cause.OOM_HOST,
    "NODE_FAIL": Cause.NODE_FAIL,
    "BOOT_FAIL": Cause.NODE_FAIL,
    "PREEMPTED": Cause.PREEMPTED,
    "CANCELLED": Cause.CANCELLED,
    "REVOKED": Cause.CANCELLED,
}
"""Slurm's final states that name a cause; COMPLETED and FAILED do not."""
_SPECIFIC = frozenset(
    {Cause.PYTHON_ERROR, Cause.DATA, Cause.DIVERGED, Cause.OOM_DEVICE, Cause.OOM_HOST, Cause.HUNG, Cause.STORAGE}
)
"""What a rank says of itself with certainty.

A lost connection or a signal is a consequence; the scheduler knows of what.
"""

CANCELLED_BY_USER = "hpcpar cancel"
"""The reason in the last line of a run that `hpcpar cancel` ended."""
LOCAL_TIMEOUT_CODE = 124
"""Exit code of the local launcher when it ended the ranks at the time limit (the same as timeout(1))."""


UNWRITABLE_CODE = 74
"""Exit code of a rank that could not write into the run folder: on a full disk it may be all that is left to say it
(EX_IOERR of sysexits.h)."""
CHECKPOINTED_CODE = 85
"""Exit code of a job script whose run stopped before the time limit and left a checkpoint to go on from."""


UNREADABLE = "unreadable"
"""State of a run whose files are there and say nothing: nobody knows what became of it, so it is not sent again."""


class Outcome(NamedTuple):
    """The state of a run for a person."""

    state: str
    """planned, submitted, queued, running, done, failed, unreadable."""
    cause: Cause | None
    message: str
    attempt: str
    num_attempts: int
    started: float | None
    ended: float | None
    rejected: int
    """Lines of the run's own files that could not be read."""
    nodes: tuple[str, ...] = ()
    """Of a failure: the node that told its cause, else all nodes of the attempt."""

    @property
    def wall_s(self) -> float | None:
        """Seconds from its start to its end; None where it lacks one of them, or they are impossible."""
        return None if self.started is None or self.ended is None else span_s(self.started, self.ended)


class Live(NamedTuple):
    """What the scheduler says of a job right now."""

    state: str
    """"queued", "running", "ending" (over, its nodes are being cleaned), or "gone" (the job is not known any more)."""
    reason: str = ""
    elapsed_s: float | None = None
    nodes: str = ""
    starts: float | None = None
    """When the scheduler expects what waits to start, in seconds since the epoch."""
    queue: str = ""
    """Folder of the local queue that has it, where that is another than this process's."""


class Result(NamedTuple):
    """record.json as far as it counts for its run."""

    record: RunRecord | None
    wrong: str = ""
    """Why a record.json that is there does not count, in words."""
    refused: bool = False
    """It could not be opened, so that what it says is unknown."""
    newer: Head | None = None
    """Of a record.json that only a newer version can read."""


def result_of(folder: RunFolder) -> Result:
    """Read a run's result; one that is damaged or of another run is none."""
    record = folder.record()
    if record is None:
        return _no_result(folder) if folder.has_record() else Result(None)
    spec = folder.spec()
    if spec is not None and record.key != spec.key:
        return Result(None, f"record.json belongs to another run ({record.key})")
    return Result(record)


def _no_result(folder: RunFolder) -> Result:
    refused = folder.record_refused()
    if refused:
        return Result(None, f"record.json cannot be read: {refused}", refused=True)
    newer = folder.newer_record()
    return Result(None, "record.json is damaged") if newer is None else Result(None, newer=newer)


def decide(folder: RunFolder, live: Live | None = None) -> Outcome:
    """Say what became of a run.

    Args:
        folder: the run's folder.
        live: the scheduler's present word on its latest job, or None where nobody asked (or nobody could).
    """
    submissions = folder.submissions()
    attempts = folder.attempts()
    attempt = attempts[-1] if attempts else ""
    reading = folder.events(attempt) if attempt else None
    events: list[Event] = reading.records if reading else []
    rejected = reading.rejected if reading else 0
    submitted = _last(submissions, "submitted")
    result = result_of(folder)
    record = result.record
    if record is not None and is_outdated(record, submitted) and live is not None and live.state != "gone":
        record = None
    started = events[0].time if events else None
    if record is not None:
        return _done(record, len(attempts), rejected)
    base = Outcome("", None, "", attempt, len(attempts), started, None, rejected)
    if result.newer is not None:
        return _of_a_newer_version(base, result.newer)
    ended = _last(submissions, "ended")
    resubmitted = submitted is not None and not _belongs(attempt, submitted.job_id)
    if resubmitted:  # a later job is on its way; what the earlier attempt left is history
        base = base._replace(started=None)
        events = []
    if ended is not None and submitted is not None and ended.job_id != submitted.job_id:
        ended = None
    if live is not None and live.state in ("queued", "running"):
        return base._replace(state=live.state, message=live.reason)
    if result.refused:
        return base._replace(state=UNREADABLE, message=result.wrong)
    closed = _closed(base, events, ended, result.wrong)
    awaited = ended is None and live is not None and live.state == "ending"
    if awaited and closed is not None and closed.cause not in _SPECIFIC:
        # A signal or a lost connection is a consequence: in a moment the scheduler will say of what.
        return base._replace(state="running", message="it ended; the scheduler's word on why is awaited")
    if closed is None and result.wrong and not resubmitted:  # whoever wrote a result had ended
        return base._replace(state="failed", cause=Cause.DATA, message=result.wrong)
    return closed or _open(base, events, submitted, live)


def is_outdated(record: RunRecord, submitted: Submission | None) -> bool:
    """Say whether a result is older than the latest submission (`submit --again`)."""
    return submitted is not None and record.job_id != submitted.job_id and record.ended < submitted.time


def _done(record: RunRecord, num_attempts: int, rejected: int) -> Outcome:
    state = "done" if record.cause == Cause.OK else "failed"
    return Outcome(state, record.cause, "", record.attempt, num_attempts, record.started, record.ended, rejected)


def _of_a_newer_version(base: Outcome, head: Head) -> Outcome:
    message = f"record.json is of a newer version (schema {head.schema}, this one reads {SCHEMA}): update hpcpar"
    done = head.cause in ("", Cause.OK)
    cause = Cause.OK if done else Cause(head.cause) if head.cause in set(Cause) else Cause.PYTHON_ERROR
    return base._replace(state="done" if done else "failed", cause=cause, message=message)


def _closed(base: Outcome, events: list[Event], ended: Submission | None, wrong: str) -> Outcome | None:
    """Return the outcome when somebody said that it is over; `wrong` is what is wrong with its result."""
    errors = [event for event in events if event.kind == "error"]
    exits = [event for event in events if event.kind in ("exit", "script_exit")]
    if not exits and ended is None:
        return None
    own = _first_error(errors)
    by_scheduler = SCHEDULER_CAUSES.get(ended.state) if ended else None
    when = exits[-1].time if exits else (ended.time if ended else None)
    base = base._replace(state="failed", ended=when, nodes=_nodes(own, events))
    code = next((event.data.get("code") for event in reversed(exits) if event.kind == "script_exit"), None)
    if code is None and ended is not None and any(event.kind == "start" for event in events):
        code = _scheduler_code(ended)
    from_outside = code == LOCAL_TIMEOUT_CODE or (isinstance(code, int) and code > 128)
    if own is not None:
        explains = by_scheduler is None and not (from_outside and _is_echo(own))
        if _cause(own) in _SPECIFIC or explains:
            return base._replace(cause=_cause(own), message=_words(own))
    if by_scheduler is not None and ended is not None:
        ours = ended.reason == CANCELLED_BY_USER
        message = "by `hpcpar cancel`" if ours else f"the scheduler says {ended.state}"
        return base._replace(cause=by_scheduler, message=message)
    cause, message = _from_code(code, events, ended)
    if wrong:
        cause, message = Cause.DATA, wrong
    return base._replace(cause=cause, message=message)


def _nodes(own: Event | None, events: list[Event]) -> tuple[str, ...]:
    if own is not None and own.host and not _is_echo(own):
        return (own.host,)
    hosts = next((event.data.get("hosts") for event in events if event.kind == "start"), None)
    return tuple(host for host in hosts if isinstance(host, str)) if isinstance(hosts, list) else ()


def _from_code(code: object, events: list[Event], ended: Submission | None) -> tuple[Cause, str]:
    if code == LOCAL_TIMEOUT_CODE:
        return Cause.TIMEOUT, "it reached its time limit"
    if code == UNWRITABLE_CODE:
        return Cause.STORAGE, "it could not write into its run folder; the disk or the quota may be full"
    started = any(event.kind == "start" for event in events)
    if isinstance(code, int) and code > 128:
        return Cause.KILLED, f"a rank was ended by signal {code - 128}"
    if not started and ended is not None and code is None and not ended.state:
        return Cause.VANISHED, "it began nothing, and the scheduler does not know it any more"
    if not started:
        state = f", the scheduler says {ended.state} {ended.exit_code}".rstrip() if ended else ""
        return Cause.LAUNCH, f"it ended before any rank began (exit code {code}{state}); see its logs"
    return Cause.VANISHED, f"it ended without a result (exit code {code})"


def _scheduler_code(ended: Submission) -> int | None:
    """Return the script's exit code out of sacct's "CODE:SIGNAL"; 128 + the signal where one ended it."""
    code, _, number = ended.exit_code.partition(":")
    if not (code.isascii() and code.isdigit() and number.isascii() and number.isdigit()):
        return None
    return 128 + int(number) if int(number) else int(code)


def _open(base: Outcome, events: list[Event], submitted: Submission | None, live: Live | None) -> Outcome:
    """Return the outcome when nobody said that it is over."""
    if submitted is None and not events:
        return base._replace(state="planned", message="not submitted")
    if live is None:
        return base._replace(state="running" if events else "submitted", message="the scheduler was not asked")
    if live.state == "ending":
        return base._replace(state="running", message="ending")
    message = live.reason or "nothing more was heard of it, and the scheduler does not know it any more"
    return base._replace(state="failed", cause=Cause.VANISHED, message=message)


def _first_error(errors: list[Event]) -> Event | None:
    """Return the error that came first, but one with a cause of its own before a lost connection: that is the echo."""
    return min(errors, key=lambda event: (_cause(event) not in _SPECIFIC, _is_echo(event)), default=None)


def _is_echo(event: Event) -> bool:
    """Say whether an error only tells that something happened to another rank, or to all of them."""
    return bool(event.data.get("echo")) or _cause(event) == Cause.KILLED


def _cause(event: Event) -> Cause:
    try:
        return Cause(str(event.data.get("cause")))
    except ValueError:
        return Cause.PYTHON_ERROR


def _words(event: Event) -> str:
    message = str(event.data.get("message", "")).strip() or "no message"
    return f"rank {event.rank} on {event.host or 'an unknown host'}: {message}"


def _last(submissions: list[Submission], kind: str) -> Submission | None:
    return next((line for line in reversed(submissions) if line.kind == kind), None)


def _belongs(attempt: str, job_id: str) -> bool:
    return attempt.rpartition(".")[0] == job_id
