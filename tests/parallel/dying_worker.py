"""A rank that is killed at a chosen touch of the disk. Runs in a process of its own."""

from __future__ import annotations

import os
import pathlib
import signal
from multiprocessing.connection import Connection
from typing import Any

from worker_runs import ATTEMPT

from hpcpar import storage
from hpcpar.worker import main

_VARIABLES = {
    "HPCPAR_ATTEMPT": ATTEMPT,
    "HPCPAR_CPUS_PER_RANK": "1",
    "SUBMITIT_EXECUTOR": "local",
    "SUBMITIT_LOCAL_JOB_ID": ATTEMPT.rpartition(".")[0],
    "SUBMITIT_LOCAL_NTASKS": "1",
    "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
    "SUBMITIT_LOCAL_NODEID": "0",
    "SUBMITIT_LOCAL_GLOBALID": "0",
    "SUBMITIT_LOCAL_LOCALID": "0",
}


class Disk:
    """The module os as hpcpar.storage sees it: every touch is counted, and one of them is the last."""

    def __init__(self, fatal: int) -> None:
        self.fatal, self.touches = fatal, 0

    def touch(self) -> bool:
        """Count; say whether this is the one."""
        self.touches += 1
        return self.touches == self.fatal

    def write(self, descriptor: int, content: Any) -> int:
        """Write all of it, or the first half and die."""
        if self.touch():
            os.write(descriptor, bytes(content)[: len(content) // 2])
            die()
        return os.write(descriptor, content)

    def __getattr__(self, name: str) -> Any:
        if name in ("open", "fsync", "fchmod", "close") and self.touch():
            die()
        return getattr(os, name)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def live(path: str, fatal: int, end: Connection) -> None:
    """Run the run; with `fatal` 0 to its end, and send how often it touched the disk."""
    os.environ.update(_VARIABLES)
    disk: Any = Disk(fatal)
    rename = pathlib.Path.rename

    def renamed(self: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        if disk.touch():
            die()
        return rename(self, target)

    storage.os = disk
    pathlib.Path.rename = renamed  # type: ignore[assignment]
    main.run(path)
    end.send(disk.touches)
