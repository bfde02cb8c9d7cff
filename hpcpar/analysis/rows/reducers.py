"""Many run folders to rows, on every core: processes that read names on stdin and write rows on stdout.

Not multiprocessing: its processes import the caller's main module, which in a script without a main guard starts the
whole script again.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from msgspec import Struct

from hpcpar.analysis.rows.reduce import Row, reduce_run
from hpcpar.runs import Snapshot

PARALLEL_FROM = 500
"""Runs from which starting processes costs less than it saves."""
_START = "import sys; sys.path[:] = {path!r}; from hpcpar.analysis.rows.reducers import serve; serve()"


class Options(Struct, frozen=True, kw_only=True):
    """What `reduce_run` is told."""

    warmup_steps: int | None = None
    target_loss: float | None = None


class _Order(Struct, frozen=True):
    folders: list[tuple[bytes, list[bytes]]]
    """Paths of runs, and the names of their files."""
    options: Options


def reduce_all(folders: Sequence[Snapshot], options: Options) -> list[Row]:
    """Return the row of each folder, in their order."""
    workers = num_workers()
    if len(folders) < PARALLEL_FROM or workers < 2:
        return _reduce(folders, options)
    parts = [folders[start::workers] for start in range(workers)]  # neighbours are alike: everyone gets of each kind
    rows: list[Row | None] = [None] * len(folders)
    with ThreadPoolExecutor(workers) as threads:  # each of them only waits for its process
        for start, part in enumerate(threads.map(lambda part: _elsewhere(part, options), parts)):
            rows[start::workers] = part
    return [row for row in rows if row is not None]


def _reduce(folders: Sequence[Snapshot], options: Options) -> list[Row]:
    return [reduce_run(folder, options.warmup_steps, options.target_loss) for folder in folders]


def _elsewhere(folders: Sequence[Snapshot], options: Options) -> list[Row]:
    """Reduce in another process; here, where none can be had."""
    named = [(os.fsencode(one.path.absolute()), list(map(os.fsencode, one.names))) for one in folders]
    order = _Order(named, options)
    command = [sys.executable, "-S", "-c", _START.format(path=sys.path)]  # -S: the path is known
    try:
        done = subprocess.run(command, input=msgspec.msgpack.encode(order), capture_output=True, check=True)
        rows = msgspec.msgpack.decode(done.stdout, type=list[Row])
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        rows = []
    return rows if len(rows) == len(folders) else _reduce(folders, options)


def serve() -> None:
    """Do what stdin asks for: the other process's side."""
    gc.disable()  # rows have no cycles, and this process ends with them
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Order)
    folders = [Snapshot(Path(os.fsdecode(path)), list(map(os.fsdecode, names))) for path, names in order.folders]
    rows = _reduce(folders, order.options)
    sys.stdout.buffer.write(msgspec.msgpack.encode(rows))


def num_workers() -> int:
    """Return how many processes may compute at once."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 16)
