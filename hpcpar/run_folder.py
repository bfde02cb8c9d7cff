"""One run's folder: its file names, and the only ways to read and write them.

    RUNS/STUDY/KEY-rREPEAT/     spec.json submission.jsonl events.A.jsonl steps.A.jsonl record.json logs/

A is the attempt, JOBID[_TASK].RESTARTS. Append-only files are the truth.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct

from hpcpar import records
from hpcpar.records import Event, RunRecord, Step, StepTime
from hpcpar.spec import SCHEMA, RunSpec, Submission
from hpcpar.storage import make_folder, open_file, write_file

R = TypeVar("R")
S = TypeVar("S", bound=Struct)
_Signature = tuple[int, int, int]
"""Inode, size and time of change: files of a run folder grow, or are replaced by another."""


class RunFolder:
    """One run's folder. Made by submit, filled by the worker, read by status and collect.

    Where ten thousand of them are read, names are joined as text: making a path of each costs as much as opening it.
    """

    def __init__(self, path: Path | str) -> None:
        self.at = str(path)
        """The folder's path as text."""
        self._read: dict[str, tuple[_Signature | None, Any]] = {}

    @functools.cached_property
    def path(self) -> Path:
        """The folder."""
        return Path(self.at)

    def _unchanged(self, name: str, read: Callable[[], R]) -> R:
        """Return what was read from a file of this folder, or read it again where it is another one by now."""
        if name not in self._read:  # most commands read a file once: only who comes back asks whether it is the same
            value = read()
            self._read[name] = (None, value)
            return value
        try:
            found = os.stat(f"{self.at}/{name}")  # noqa: PTH116
        except OSError:
            return read()
        signature = (found.st_ino, found.st_size, found.st_mtime_ns)
        before = self._read[name]
        if before[0] == signature:
            return cast("R", before[1])
        value = read()
        self._read[name] = (signature, value)
        return value

    def _names(self) -> Sequence[str]:
        try:
            return os.listdir(self.at)
        except OSError:
            return []

    @property
    def spec_path(self) -> Path:
        """spec.json: what was planned."""
        return Path(f"{self.at}/spec.json")

    @property
    def record_path(self) -> Path:
        """record.json: the result."""
        return self.path / "record.json"

    @property
    def submission_path(self) -> Path:
        """submission.jsonl: what the scheduler said."""
        return self.path / "submission.jsonl"

    @property
    def logs(self) -> Path:
        """What the ranks printed; for people."""
        return self.path / "logs"

    def events_path(self, attempt: str) -> Path:
        """Rank 0's events, and the job script's last word."""
        return self.path / f"events.{attempt}.jsonl"

    def rank_events_path(self, attempt: str, rank: int) -> Path:
        """The events of another rank; made only when that rank fails."""
        return self.path / f"failed-rank.{attempt}.{rank}.jsonl"

    def steps_path(self, attempt: str) -> Path:
        """One line a step."""
        return self.path / f"steps.{attempt}.jsonl"

    def rendezvous_path(self, attempt: str) -> Path:
        """Where rank 0 listens, for the other ranks of the same attempt."""
        return self.path / f"rendezvous.{attempt}.json"

    def fleet(self, attempt: str) -> Path:
        """The folder of a driver and its workers, while they work: how they reach each other, and what Dask writes."""
        return self.path / f"fleet.{attempt}"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; only the worker looks inside."""
        return self.path / "checkpoints"

    def stopped_path(self, attempt: str) -> Path:
        """The worker's word to the job script: it stopped before the time limit, and a checkpoint is there."""
        return self.path / f"stopped.{attempt}"

    def write_spec(self, spec: RunSpec, *, durable: bool = True) -> None:
        """Make the folder and write spec.json; see `storage.write_file`."""
        make_folder(self.path)
        content = msgspec.json.format(msgspec.json.encode(spec), indent=1)
        write_file(f"{self.at}/spec.json", content, durable=durable)

    def spec(self) -> RunSpec | None:
        """Read spec.json; None where it is missing or damaged."""
        return self._unchanged("spec.json", lambda: records.read_one(f"{self.at}/spec.json", RunSpec))

    def record(self) -> RunRecord | None:
        """Read record.json; None where there is no result yet."""
        return self._unchanged("record.json", lambda: records.read_one(f"{self.at}/record.json", RunRecord))

    def has_record(self) -> bool:
        """Say whether there is a result, readable or not."""
        return os.path.isfile(f"{self.at}/record.json")  # noqa: PTH113

    def record_refused(self) -> str:
        """Say why record.json cannot be read although it is there: no right to, or its disk fails; "" where it can."""
        try:
            open_file(f"{self.at}/record.json").close()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return error.strerror or type(error).__name__
        return ""

    def newer_record(self) -> records.Head | None:
        """Return the head of a result that only a newer hpcpar can read; None where it is none."""
        head = records.read_one(f"{self.at}/record.json", records.Head) if self.record() is None else None
        return head if head is not None and head.schema > SCHEMA else None

    def submissions(self) -> list[Submission]:
        """Read what the scheduler said, oldest first."""
        return list(self.submission_lines().records)

    def submission_lines(self) -> records.Reading:
        """Read what the scheduler said, oldest first, with the number of lines that cannot be read."""

        def read() -> records.Reading:
            return records.read_lines(f"{self.at}/submission.jsonl", Submission)

        return self._unchanged("submission.jsonl", read)

    def add_submission(self, line: Submission) -> None:
        """Note what the scheduler said.

        Raises:
            StorageError: it cannot be written.
        """
        records.append(f"{self.at}/submission.jsonl", line)

    def attempts(self) -> list[str]:
        """List the attempts that wrote events, oldest first."""
        found = [name for name in self._names() if name.startswith("events.") and name.endswith(".jsonl")]
        names = [name.removeprefix("events.").removesuffix(".jsonl") for name in found]
        if len(names) < 2:  # mostly; then nothing need be read
            return names
        first_seen = {name: self._first_time(name) for name in names}
        return sorted(first_seen, key=lambda name: (first_seen[name], name))

    def _first_time(self, attempt: str) -> float:
        try:
            with open_file(self.events_path(attempt)) as file:
                head = records.parse_lines(file.readline(65536), Event).records
                return head[0].time if head else os.fstat(file.fileno()).st_mtime
        except OSError:
            return 0.0

    def events(self, attempt: str) -> records.Reading:
        """Read the events of an attempt, those of its failed ranks included, in order of time."""
        gathered, rejected = records.read_lines(f"{self.at}/events.{attempt}.jsonl", Event)
        mark = f"failed-rank.{attempt}."
        others = [name for name in self._names() if name.startswith(mark)]
        for name in sorted(name for name in others if name.endswith(".jsonl")):
            more = records.read_lines(f"{self.at}/{name}", Event)
            gathered = gathered + more.records
            rejected += more.rejected
        return records.Reading(sorted(gathered, key=_time), rejected)

    def steps(self, attempt: str) -> records.Reading:
        """Read the steps of an attempt."""
        return records.read_lines(self.steps_path(attempt), Step)

    def step_times(self, attempt: str) -> records.Reading:
        """Read of the steps of an attempt what tables are made of, in less time."""
        return records.read_lines(f"{self.at}/steps.{attempt}.jsonl", StepTime)

    def undamaged_steps(self, attempt: str, kind: type[S]) -> list[S] | None:
        """Read the steps of an attempt as what `kind` asks for; None where any line is damaged, or is not that."""
        return records.read_undamaged(f"{self.at}/steps.{attempt}.jsonl", kind)

    def last_steps(self, attempt: str) -> list[Step]:
        """Return some of the steps that were recorded last."""
        path = f"{self.at}/steps.{attempt}.jsonl"
        return records.tail_lines(path, Step, 2048) or records.tail_lines(path, Step, 65536)

    def last_step(self, attempt: str) -> int:
        """Return the number of the last recorded step, 0 where there is none."""
        return max((step.step for step in self.last_steps(attempt)), default=0)

    def last_written(self) -> float:
        """Return when its attempts last wrote events or steps, in seconds since the epoch; 0 where none did."""
        newest = 0.0
        for attempt in self.attempts():
            for path in (self.events_path(attempt), self.steps_path(attempt)):
                with contextlib.suppress(OSError):
                    newest = max(newest, path.stat().st_mtime)
        return newest


_time = operator.attrgetter("time")


class Snapshot(RunFolder):
    """A run's folder, each file of which is read once: a run that is going on cannot change between two looks."""

    def __init__(self, path: Path | str, names: Sequence[str] | None = None) -> None:
        super().__init__(path)
        self._kept: dict[str, Any] = {} if names is None else {"": names}

    @property
    def names(self) -> Sequence[str]:
        """Return the names of its files."""
        return self._names()

    def _unchanged(self, name: str, read: Callable[[], R]) -> R:
        if name not in self._kept:
            self._kept[name] = super()._unchanged(name, read)
        found: R = self._kept[name]
        return found

    def _names(self) -> Sequence[str]:
        if "" not in self._kept:
            self._kept[""] = super()._names()
        found: Sequence[str] = self._kept[""]
        return found

    def attempts(self) -> list[str]:
        """As RunFolder."""
        if "attempts" not in self._kept:
            self._kept["attempts"] = super().attempts()
        return list(self._kept["attempts"])

    def add_submission(self, line: Submission) -> None:
        """As RunFolder; the next reading sees it."""
        super().add_submission(line)
        self._kept.pop("submission.jsonl", None)

    def events(self, attempt: str) -> records.Reading:
        """As RunFolder."""
        name = f"events.{attempt}.jsonl"
        if name not in self._kept:  # made of several files: not kept from one look to the next
            self._kept[name] = super().events(attempt)
        found: records.Reading = self._kept[name]
        return found


class Seen(Snapshot):
    """A run's folder at one of several looks: what did not change since the last one is not read again."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(run.path)
        self._read = run._read
