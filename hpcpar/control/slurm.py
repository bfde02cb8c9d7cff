"""The only module that starts Slurm's commands. Argument lists, never shell lines; every call has a time limit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from hpcpar.control.manners import take_turn
from hpcpar.errors import NoSchedulerError, SchedulerError, UnansweredError
from hpcpar.outer_job import clean_environment
from hpcpar.units import parse_duration, parse_memory

TIMEOUT_S = 30.0
"""A controller that is down makes a client hang about 9 s before it says so; a slow one gets three times that."""
IDS_A_CALL = 200
"""Array ids in one sacct call: sites limit the length of a command line and the load of a query."""
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_JOB_ID = re.compile(r"(\d{1,18})(?:;\S+)?", re.ASCII)
"""What --parsable prints: the job id, and the cluster's name where there are several."""
_LOST_ANSWER = re.compile(r"timed? ?out|zero bytes|receive failed|unexpected message|connection reset", re.IGNORECASE)
"""slurm_errno.c: the request went out and the answer did not come. A controller that is not there is a plain no."""
_TASKS = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}", re.ASCII)
_UNUSABLE = re.compile(r"down|drain|fail|error|unknown|not_responding", re.IGNORECASE)
_MAX_INDEX = 4_000_000
"""slurm.conf(5): MaxArraySize is at most 4000001."""
_SQUEUE_FIELDS = "%F|%K|%T|%M|%S|%R|%j|%N"
_SACCT_FIELDS = "JobID,State,ExitCode,ElapsedRaw,NodeList,JobName,Reason"
_USAGE_FIELDS = "JobID,State,ElapsedRaw,AllocNodes,MaxRSS,ConsumedEnergyRaw"
_PLAIN_ID = re.compile(r"\d{1,18}(_\d{1,9})?", re.ASCII)


class QueueRow(NamedTuple):
    """A line of squeue. `tasks` is None for a job that is no array; else the indices that the line stands for."""

    job: str
    tasks: frozenset[int] | None
    state: str
    elapsed: str
    start: str
    """When it began; of what waits, when the scheduler expects it to ("N/A": it does not know)."""
    reason: str
    name: str
    nodes: str


class AccountingRow(NamedTuple):
    """A line of sacct for a whole job (not a step)."""

    job: str
    tasks: frozenset[int] | None
    state: str
    exit_code: str
    elapsed_s: float
    nodes: str
    name: str
    reason: str


class UsageRow(NamedTuple):
    """A line of sacct for one start of a job, or for one of its steps."""

    job_id: str
    """JOBID or JOBID_TASK."""
    is_step: bool
    state: str
    elapsed_s: float
    nodes: int
    max_rss_bytes: int
    energy_j: float


def have(command: str) -> bool:
    """Say whether a command is on PATH."""
    return shutil.which(command) is not None


def sbatch(script: str) -> str:
    """Submit a script; return the job id.

    Raises:
        NoSchedulerError: there is no sbatch here.
        SchedulerError: Slurm refused it.
        UnansweredError: no answer came that says whether the job exists.
    """
    try:
        answer = _call(["sbatch", "--parsable", script])
    except _BrokenOffError as error:
        raise UnansweredError("sbatch", error.stderr) from error
    except SchedulerError as error:
        if lost_answer(error):
            raise UnansweredError("sbatch", error.stderr) from error
        raise
    # Sites wrap sbatch and print a line before or after it.
    for line in reversed(answer.splitlines()):
        if match := _JOB_ID.fullmatch(line.strip()):
            return match[1]
    raise UnansweredError("sbatch", f"no job id in its answer: {answer.strip()[:200]!r}")


def lost_answer(error: SchedulerError) -> bool:
    """Say whether the request may have reached Slurm and only its answer got lost."""
    return isinstance(error, _BrokenOffError) or bool(_LOST_ANSWER.search(error.stderr))


def squeue() -> list[QueueRow]:
    """List all jobs of this user that wait or run: one call, whatever their number.

    Raises:
        NoSchedulerError, SchedulerError: as above.
    """
    return parse_squeue(_call(["squeue", "--noheader", f"--user={os.getuid()}", f"--format={_SQUEUE_FIELDS}"]))


def unusable_nodes() -> set[str]:
    """Return the names of the nodes that are down, drained or failing.

    Raises:
        NoSchedulerError, SchedulerError: as above.
    """
    rows = (line.partition("|") for line in _call(["sinfo", "--noheader", "--Node", "--format=%N|%T"]).splitlines())
    return {name.strip() for name, _, state in rows if _UNUSABLE.match(state.strip())}


def sacct(job_ids: Sequence[str]) -> list[AccountingRow]:
    """Ask the accounting for these jobs (array ids, without the task): one call for each 200.

    Raises:
        NoSchedulerError, SchedulerError: also when accounting is off.
    """
    rows: list[AccountingRow] = []
    for chunk in _chunks(sorted(set(job_ids)), IDS_A_CALL):
        rows += parse_sacct(_call([*_SACCT, f"--jobs={','.join(chunk)}"]))
    return rows


def sacct_usage(job_ids: Sequence[str]) -> list[UsageRow]:
    """Ask the accounting what these jobs used: every start and step of them; one call for each 200.

    Raises:
        NoSchedulerError, SchedulerError: also when accounting is off.
    """
    rows: list[UsageRow] = []
    command = ["sacct", "--noheader", "--parsable2", "--duplicates", f"--format={_USAGE_FIELDS}"]
    for chunk in _chunks(sorted(set(job_ids)), IDS_A_CALL):
        rows += parse_usage(_call([*command, f"--jobs={','.join(chunk)}"]))
    return rows


def sacct_by_name(names: Sequence[str], since: str) -> list[AccountingRow]:
    """Look jobs up by name since a time (YYYY-MM-DDTHH:MM:SS): for submissions whose answer was lost."""
    return parse_sacct(_call([*_SACCT, f"--name={','.join(names)}", f"--starttime={since}"]))


def scancel(words: Sequence[str]) -> None:
    """Cancel jobs ("12") and tasks ("12_[0,3]"); those that have ended already are no error.

    Raises:
        NoSchedulerError, SchedulerError: as above.
    """
    for chunk in _chunks(words, IDS_A_CALL):
        _call(["scancel", "--quiet", *chunk])


def scontrol_show(what: str, *words: str) -> str:
    """Return what scontrol says of the configuration, the partitions or the nodes, a line for each.

    Raises:
        NoSchedulerError, SchedulerError: as above.
    """
    return _call(["scontrol", "--oneliner", "show", what, *words])


def sacctmgr_show(what: str, *words: str) -> str:
    """Return a table of the accounting, with its header; errors as above, also when accounting is off."""
    return _call(["sacctmgr", "--parsable2", "--readonly", "show", what, *words])


def sinfo_nodes(fields: str) -> str:
    """Return a line for each node and partition; errors as above."""
    return _call(["sinfo", "--Node", "--noheader", f"--format={fields}"])


def test_only(script: str) -> None:
    """Let sbatch check a script's text without submitting it (it uses up a job id).

    Raises:
        NoSchedulerError: there is no sbatch here.
        SchedulerError: Slurm would refuse it; in its own words.
    """
    _call(["sbatch", "--test-only"], script)


_SACCT = ["sacct", "--noheader", "--parsable2", "--allocations", f"--format={_SACCT_FIELDS}"]


def parse_squeue(text: str) -> list[QueueRow]:
    """Parse squeue's answer; lines that make no sense are left out."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|")
        # A job's name is ours, but the user's other jobs may have bars in theirs: count from both ends.
        if len(parts) < 8 or not _NUMBER.fullmatch(parts[0].strip()):
            continue
        job, tasks, state, elapsed, start, reason = (part.strip() for part in parts[:6])
        name, nodes = "|".join(parts[6:-1]).strip(), parts[-1].strip()
        rows.append(QueueRow(job, parse_tasks(tasks), state, elapsed, start, reason, name, nodes))
    return rows


def parse_sacct(text: str) -> list[AccountingRow]:
    """Parse sacct's answer; lines that make no sense are left out."""
    rows = []
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) < 7:
            continue
        job_id, state, exit_code, elapsed, nodes = (part.strip() for part in parts[:5])
        name, reason = "|".join(parts[5:-1]).strip(), parts[-1].strip()
        job, _, task = job_id.partition("_")
        if _NUMBER.fullmatch(job) and "." not in job_id:
            words = state.split()  # "CANCELLED by 1000"
            seconds = float(elapsed) if _NUMBER.fullmatch(elapsed) else 0.0
            rows.append(
                AccountingRow(
                    job, parse_tasks(task), words[0] if words else "", exit_code, seconds, nodes, name, reason
                )
            )
    return rows


def parse_usage(text: str) -> list[UsageRow]:
    """Parse the answer of `sacct_usage`; lines that make no sense are left out, as are tasks that never began."""
    rows = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|")]
        if len(parts) < 6:
            continue
        job_id, _, step = parts[0].partition(".")
        if _PLAIN_ID.fullmatch(job_id):
            words = parts[1].split()  # "CANCELLED by 1000"
            state = words[0] if words else ""
            elapsed, nodes, energy = (int(word) if _NUMBER.fullmatch(word) else 0 for word in (*parts[2:4], parts[5]))
            rows.append(UsageRow(job_id, bool(step), state, float(elapsed), nodes, _size(parts[4]), float(energy)))
    return rows


def _size(text: str) -> int:
    """Parse sacct's MaxRSS ("1912K", "1.25G", "0", ""): bytes, 0 where there is none."""
    try:
        return int(text) if _NUMBER.fullmatch(text) else parse_memory(text)
    except ValueError:
        return 0


def parse_tasks(text: str) -> frozenset[int] | None:
    """Parse "3", "[0-7,9%2]" or "N/A" into task indices; None where the job is no array."""
    inside = text.strip().strip("[]").partition("%")[0]
    indices: set[int] = set()
    for part in inside.split(","):
        match = _TASKS.fullmatch(part.strip())
        if not match:
            continue
        low, high, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if high <= _MAX_INDEX and step > 0:
            indices.update(range(low, high + 1, step))
    return frozenset(indices) if indices else None


class _BrokenOffError(SchedulerError):
    """A command was ended before it could say what it had done."""


def _call(command: list[str], text_in: str = "") -> str:
    if have(command[0]):
        take_turn()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            input=text_in,
            timeout=TIMEOUT_S,
            env=clean_environment(),
            text=True,
            errors="replace",
            # Ctrl-C must not tear an sbatch apart whose answer we need.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise NoSchedulerError(command[0]) from error
    except subprocess.TimeoutExpired as error:
        raise _BrokenOffError(command[0], f"no answer within {TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise SchedulerError(command[0], error.strerror or str(error)) from error
    if done.returncode < 0:
        raise _BrokenOffError(command[0], f"ended by signal {-done.returncode}")
    if done.returncode != 0:
        raise SchedulerError(command[0], done.stderr or done.stdout)
    return done.stdout


def _chunks(items: Iterable[str], size: int) -> Iterable[list[str]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def moment(text: str) -> float | None:
    """Parse Slurm's time of day (2026-11-21T17:30:00, of this machine's zone) into seconds since the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp() if _MOMENT.fullmatch(text) else None
    except (ValueError, OverflowError, OSError):
        return None


def elapsed_s(text: str) -> float | None:
    """Parse squeue's elapsed time; None where it is not one ("INVALID")."""
    try:
        return parse_duration(text)
    except ValueError:
        return None
