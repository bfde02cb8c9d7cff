"""The events of an attempt: rank 0 keeps the journal, another rank makes a file of its own only when it fails."""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any

from hpcpar import records
from hpcpar.errors import HpcparError, RunError
from hpcpar.records import Cause, Event
from hpcpar.runs import RunFolder
from hpcpar.worker.causes import classify
from hpcpar.worker.rank import RankInfo

_TRACEBACK_CHARACTERS = 8000


class Journal:
    """Writes the events of one rank. Every line is one append, so that a signal's watcher may write as well."""

    def __init__(self, folder: RunFolder, info: RankInfo) -> None:
        self._folder, self._info = folder, info

    def write(self, kind: str, **data: Any) -> None:
        """Append an event; nothing on a rank other than 0.

        Raises:
            StorageError: the run folder cannot be written any more.
        """
        if self._info.rank == 0:
            self._append(kind, data)

    def fail(self, error: BaseException) -> Cause:
        """Record why this rank ends, and say it on stderr; return the cause. Never raises."""
        cause = classify(error)
        message = str(error) or type(error).__name__
        if not isinstance(error, HpcparError):
            message = f"{type(error).__name__}: {message}"
        trace = "".join(traceback.format_exception(error))[-_TRACEBACK_CHARACTERS:]
        print(trace if not isinstance(error, HpcparError) else "", file=sys.stderr, end="")
        # A lost connection that nobody put into words tells only that another rank has ended.
        echo = cause == Cause.NETWORK and not isinstance(error, RunError)
        self.last_words(cause, message, trace, echo=echo)
        return cause

    def killed(self, signal_name: str) -> None:
        """Record that a signal from outside ends the job: rank 0 only, the other ranks did not fail. Never raises."""
        if self._info.rank == 0:
            self.last_words(Cause.KILLED, f"ended from outside by {signal_name}")

    def last_words(self, cause: Cause, message: str, trace: str = "", *, echo: bool = False) -> None:
        """Append the events "error" and "exit" of this rank, whichever it is. Never raises."""
        print(f"hpcpar: rank {self._info.rank}: {cause}: {message}", file=sys.stderr, flush=True)
        error: dict[str, Any] = {"cause": str(cause), "message": message, "traceback": trace}
        if echo:
            error["echo"] = True
        try:
            try:
                self._append("error", error)
            except HpcparError:
                # A full disk often has room in the file's last block, but for little.
                self._append("error", {"cause": str(cause)})
            self._append("exit", {"cause": str(cause)})
        except HpcparError as unwritable:
            # The folder is full, read-only or gone: stderr (the rank's log) and the exit code are all that is left.
            print(f"hpcpar: rank {self._info.rank}: {unwritable}", file=sys.stderr, flush=True)

    def _append(self, kind: str, data: dict[str, Any]) -> None:
        info = self._info
        rank0 = info.rank == 0
        path = (
            self._folder.events_path(info.attempt) if rank0 else self._folder.rank_events_path(info.attempt, info.rank)
        )
        event = Event(time=time.time(), kind=kind, rank=info.rank, host=info.node_name, data=data)
        records.append(path, event, durable=kind in ("start", "error", "exit"))
