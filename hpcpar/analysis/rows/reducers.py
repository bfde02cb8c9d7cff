"""Many run folders to rows, on every core: this process, and others that read names on stdin and write rows on stdout.

Not multiprocessing: its processes import the caller's main module, which in a script without a main guard starts the
whole script again.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

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
    folders: list[tuple[bytes, bytes]]
    """Paths of runs, and the names of their files between slashes."""
    options: Options


def reduce_all(folders: Sequence[Snapshot], options: Options) -> list[Row]:
    """Return the row of each folder, in their order."""
    workers = num_workers()
    if len(folders) < PARALLEL_FROM or workers < 2:
        return _reduce(folders, options)
    from concurrent.futures import ThreadPoolExecutor  # neither most studies nor the other processes need it

    parts = [folders[start::workers] for start in range(workers)]  # neighbours are alike: everyone gets of each kind
    rows: list[Row | None] = [None] * len(folders)
    with ThreadPoolExecutor(workers - 1) as threads:  # each of them only waits for its process
        elsewhere = threads.map(lambda part: _elsewhere(part, options), parts[1:])
        rows[::workers] = _reduce(parts[0], options)
        for start, part in enumerate(elsewhere, 1):
            rows[start::workers] = part
    return [row for row in rows if row is not None]


def _reduce(folders: Sequence[Snapshot], options: Options) -> list[Row]:
    return [reduce_run(folder, options.warmup_steps, options.target_loss) for folder in folders]


def _elsewhere(folders: Sequence[Snapshot], options: Options) -> list[Row]:
    """Reduce in another process; here, where none can be had."""
    import subprocess

    order = _Order([(os.fsencode(one.at), os.fsencode("/".join(one.names))) for one in folders], options)
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
    folders = [Snapshot(os.fsdecode(path), os.fsdecode(names).split("/")) for path, names in order.folders]
    rows = _reduce(folders, order.options)
    sys.stdout.buffer.write(msgspec.msgpack.encode(rows))


def num_workers() -> int:
    """Return how many processes may compute at once."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 16)
