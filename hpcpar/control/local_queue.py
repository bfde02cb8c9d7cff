"""The queue of the `local` cluster: runs of this machine, one at a time, in order; it lives on after `submit` returned.

    python -m hpcpar.control.local_queue        (what submit starts, detached; `hpcpar resume` does the same by hand)

A folder of entries, one a batch, and one lock per user and machine: overlapping runs would spoil each other's timing.
The process drains the entries and exits; there is no daemon. When it dies, entries and run folders say what was left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from hpcpar import records, runs
from hpcpar.errors import HpcparError
from hpcpar.outcome import Live
from hpcpar.runs import BatchFolder, RunFolder
from hpcpar.storage import make_folder, write_file

JOB_PREFIX = "local-"


class Entry(Struct, kw_only=True):
    """A queued batch: where its folder is."""

    batch: str
    queued: float
    cwd: str = "/"
    """The folder of the submit: relative paths among the options mean it, as they do under Slurm."""


class Current(Struct, kw_only=True):
    """What the queue's process is doing: overwritten at every change."""

    pid: int
    job_id: str = ""
    since: float
    script: int = 0
    """Process of the job's script; 0 until it has begun."""


class Element(NamedTuple):
    """One run of a queued batch that has not ended."""

    order: tuple[float, int, int]
    """When its submit began, its place in the study's order, its index."""
    batch: BatchFolder
    task: int
    job_id: str
    restarts: int
    cwd: str


def folder() -> Path:
    """Return this machine's queue folder; home folders are often shared between machines, queues are not."""
    return runs.state_folder() / "local-queue" / socket.gethostname()


def job_id_of(batch_key: str, index: int, num_runs: int) -> str:
    """Return the job id of a run; it follows from the batch, so that a killed submit can be picked up again."""
    return f"{JOB_PREFIX}{batch_key}" + (f"_{index}" if num_runs > 1 else "")


def enqueue(batch: BatchFolder) -> str:
    """Put a batch into the queue and return its job id (without a task)."""
    make_folder(folder())
    now = time.time()
    entry = Entry(batch=str(batch.path), queued=now, cwd=str(Path.cwd()))
    write_file(folder() / f"{now:020.6f}-{batch.key}.json", msgspec.json.encode(entry))
    return job_id_of(batch.key, 0, 1)


def holds(batch: BatchFolder, queue: Path | None = None) -> bool:
    """Say whether a batch stands in the queue; `queue` as in `waiting_elements`."""
    return any(path.name.endswith(f"-{batch.key}.json") for path in _entry_paths(queue))


def start() -> None:
    """Start the queue's process, detached; when one is at work already, the new one sees the lock and ends."""
    make_folder(folder())
    with (folder() / "queue.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "hpcpar.control.local_queue"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )


def is_alive() -> bool:
    """Say whether a process drains the queue: it holds the lock."""
    if not (folder() / "lock").exists():  # asking makes no file
        return False
    with _lock() as held:
        return not held


def num_waiting() -> int:
    """Return the number of queued batches."""
    return len(_entry_paths())


def live_states() -> dict[str, Live]:
    """Return the state of every job of the queue that has not ended, by job id."""
    elements = waiting_elements()
    if not elements:
        return {}
    alive = is_alive()
    current = records.read_one(folder() / "current.json", Current) if alive else None
    states = {}
    for place, element in enumerate(elements):
        if current is not None and element.job_id == current.job_id:
            states[element.job_id] = Live("running", elapsed_s=time.time() - current.since)
        elif alive:
            states[element.job_id] = Live("queued", reason=f"{place} before it on this machine" if place else "next")
        else:
            states[element.job_id] = Live("queued", reason="the local queue has stopped: start it with `hpcpar resume`")
    return states


def waiting_elements(queue: Path | None = None) -> list[Element]:
    """List what is left to do, in order: as queued, and within one submission in the study's order.

    `queue`: the folder of another queue than this process's.
    """
    found = []
    for path in _entry_paths(queue):
        entry = records.read_one(path, Entry)
        if entry is not None:
            found += _elements(entry)
    # Batches of one submit differ in shape and were queued within moments; the study's own order goes through them.
    return sorted(found, key=lambda element: element.order)


def _elements(entry: Entry) -> list[Element]:
    batch = BatchFolder(Path(entry.batch))
    manifest = batch.read()
    begun, sent = (manifest.intent.begun, manifest.intent.time) if manifest.intent else (entry.queued, entry.queued)
    left = []
    for index, name in sorted(manifest.runs.items()):
        run = batch.study.run(name)
        job_id = job_id_of(batch.key, index, len(manifest.runs))
        own = [attempt for attempt in run.attempts() if attempt.rpartition(".")[0] == job_id]
        if _has_ended(run, own) or _is_cancelled(run, job_id) or _is_overtaken(run, batch.key, sent):
            continue
        spec = run.spec()
        if spec is None:
            continue
        left.append(Element((begun, spec.order, index), batch, index, job_id, len(own), entry.cwd))
    return left


def _is_cancelled(run: RunFolder, job_id: str) -> bool:
    return any(line.kind == "ended" and line.job_id == job_id for line in run.submissions())


def _is_overtaken(run: RunFolder, batch_key: str, sent: float) -> bool:
    """Say whether a run was submitted once more since: another queue thought that this one is gone, and runs it."""
    later = (line for line in run.submissions() if line.kind == "submitted" and line.batch != batch_key)
    return any(line.time > sent for line in later)


def _has_ended(run: RunFolder, attempts: list[str]) -> bool:
    """Say whether one of these attempts came to its end: a killed script may have left the result but no last word."""
    record = run.record() if attempts else None
    if record is not None and record.attempt in attempts:
        return True
    # Of any attempt, not of the latest: clocks are set back, and then the latest is not the last.
    return any(event.kind == "script_exit" for attempt in attempts for event in run.events(attempt).records)


def drain() -> int:
    """Run what is queued until nothing is left; return the number of runs done. Ends at once if another is at it."""
    done = 0
    make_folder(folder())
    while True:
        with _lock() as held:
            if not held:
                return done
            while elements := waiting_elements():
                try:
                    _run(elements[0])
                except (OSError, HpcparError):
                    if elements[0].batch.manifest_path.exists():
                        raise
                    # Its folder was removed while it ran: the other studies' runs are no less wanted for that.
                done += 1
            _forget_finished()
        # An entry that came between the last look and the unlock had its own process turned away: look once more.
        if not waiting_elements():
            return done


def stop(job_ids: Collection[str]) -> None:
    """End the job that is running, if it is one of these: all of them have been noted as cancelled before."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and is_alive():
        current = records.read_one(folder() / "current.json", Current)
        if current is None or current.job_id not in job_ids:
            return
        if current.script and _parent(current.script) == current.pid:
            # The launcher ends with its script, and the ranks with their launcher.
            with contextlib.suppress(ProcessLookupError):
                os.kill(current.script, signal.SIGTERM)
            return
        time.sleep(0.05)  # it was chosen a moment ago: its script is about to begin, or was passed over


def _parent(pid: int) -> int:
    """Return the parent of a process; 0 where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def _say_current(element: Element, script: int = 0) -> None:
    current = Current(pid=os.getpid(), job_id=element.job_id, since=time.time(), script=script)
    write_file(folder() / "current.json", msgspec.json.encode(current))


def _run(element: Element) -> None:
    """Run one job script to its end; the script itself writes what came of it."""
    _say_current(element)
    if _is_cancelled(element.batch.study.run(element.batch.read().runs[element.task]), element.job_id):
        return  # after the line above: who cancels later sees what is running
    log_path = element.batch.logs / f"{element.job_id}.log"
    environment = {
        **os.environ,
        "SUBMITIT_EXECUTOR": "local",
        "HPCPAR_INDEX": str(element.task),
        "HPCPAR_JOB_ID": element.job_id,
        "HPCPAR_RESTARTS": str(element.restarts),
    }
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            ["bash", str(element.batch.script_path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=element.cwd if Path(element.cwd).is_dir() else "/",
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one thread; the run must not outlive the queue's process
        )
        _say_current(element, process.pid)
        code = process.wait()
    _ensure_exit_line(element, code)


def _ensure_exit_line(element: Element, code: int) -> None:
    """Write the exit line that the script could not (it was killed itself), so that the queue goes on."""
    name = element.batch.read().runs.get(element.task)
    if name is None:
        return  # the folder was removed while it ran
    run = element.batch.study.run(name)
    path = run.events_path(f"{element.job_id}.{element.restarts}")
    if not any(e.kind == "script_exit" for e in records.read_lines(path, records.Event).records):
        exit_code = code if code >= 0 else 128 - code
        records.append(path, records.Event(time=time.time(), kind="script_exit", data={"code": exit_code}))


def _forget_finished() -> None:
    for path in _entry_paths():
        entry = records.read_one(path, Entry)
        if entry is None or not _elements(entry):
            path.unlink(missing_ok=True)


def _entry_paths(queue: Path | None = None) -> list[Path]:
    try:
        entries = (queue or folder()).iterdir()
        return sorted(path for path in entries if path.name.endswith(".json") and path.name[0].isdigit())
    except OSError:
        return []


@contextlib.contextmanager
def _lock() -> Iterator[bool]:
    """Hold the queue's lock, or yield False when somebody else does."""
    with (folder() / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies; elsewhere nothing happens."""
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    drain()
