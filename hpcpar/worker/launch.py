"""Start the ranks of a run on this machine: what srun does on a cluster.

    python -m hpcpar.worker.launch --nodes N --ranks-per-node R --time-limit SECONDS --logs DIR -- COMMAND...

Every rank writes to DIR/ATTEMPT.RANK.log. The first rank that fails ends the others (SIGTERM, two seconds, SIGKILL),
and its exit code is the launcher's, 128+N for signal N; 124 when the time limit ended them. The ranks never outlive
the launcher, nor the launcher its parent (Linux).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hpcpar.outcome import LOCAL_TIMEOUT_CODE
from hpcpar.worker.lifeline import die_with_parent, tie_to

GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""
_FORWARDED = (signal.SIGTERM, signal.SIGINT)


class _Job(NamedTuple):
    nodes: int
    ranks_per_node: int
    logs: Path
    command: list[str]
    attempt: str

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node


def main(arguments: list[str] | None = None) -> int:
    """Run the ranks to their end and return the exit code."""
    job, time_limit_s = _parse(arguments)
    deadline = time.monotonic() + time_limit_s
    with _wakeup() as signals:
        die_with_parent(signal.SIGTERM)
        ranks: dict[int, subprocess.Popen[bytes]] = {}
        try:
            for rank in range(job.world_size):
                ranks[rank] = _start(job, rank)
        except OSError as error:
            _end(ranks, signals, signal.SIGTERM)
            _say(f"cannot start '{job.command[0]}': {error.strerror or error}")
            return 127
        return _supervise(ranks, signals, deadline, time_limit_s)


def _parse(arguments: list[str] | None) -> tuple[_Job, float]:
    parser = argparse.ArgumentParser(prog="python -m hpcpar.worker.launch", description="Start ranks on this machine.")
    parser.add_argument("--nodes", type=int, required=True, help="nodes to pretend")
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--time-limit", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--logs", type=Path, required=True, metavar="DIR")
    parser.add_argument("command", nargs="+", help="what every rank runs, after --")
    given = parser.parse_args(arguments)
    if min(given.nodes, given.ranks_per_node) < 1 or given.time_limit <= 0:
        parser.error("--nodes, --ranks-per-node and --time-limit must be positive")
    attempt = os.environ.get("HPCPAR_ATTEMPT") or f"local{os.getpid()}.0"
    return _Job(given.nodes, given.ranks_per_node, given.logs, given.command, attempt), given.time_limit


# ---------------------------------------------------------------- one rank


def _start(job: _Job, rank: int) -> subprocess.Popen[bytes]:
    job.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    launcher = os.getpid()
    log = os.open(job.logs / f"{job.attempt}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **_variables(job, rank)},
            start_new_session=True,  # so that what a rank starts ends with it, and Ctrl-C reaches the launcher alone
            preexec_fn=tie_to(launcher),  # noqa: PLW1509  the launcher has one thread
        )
    finally:
        os.close(log)


def _variables(job: _Job, rank: int) -> dict[str, str]:
    """Return what submitit's LocalJobEnvironment reads (submitit 1.5.4, local/local.py), for several nodes."""
    node, local_rank = divmod(rank, job.ranks_per_node)
    return {
        "HPCPAR_ATTEMPT": job.attempt,
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": job.attempt.rpartition(".")[0],
        "SUBMITIT_LOCAL_NTASKS": str(job.world_size),
        "SUBMITIT_LOCAL_JOB_NUM_NODES": str(job.nodes),
        "SUBMITIT_LOCAL_NODEID": str(node),
        "SUBMITIT_LOCAL_GLOBALID": str(rank),
        "SUBMITIT_LOCAL_LOCALID": str(local_rank),
    }


# ---------------------------------------------------------------- all of them


def _supervise(
    ranks: dict[int, subprocess.Popen[bytes]], signals: socket.socket, deadline: float, time_limit_s: float
) -> int:
    while ranks:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            _say(f"the time limit of {time_limit_s:g} s ended {len(ranks)} ranks")
            _end(ranks, signals, signal.SIGTERM)
            return LOCAL_TIMEOUT_CODE
        asked = _wait(signals, left_s)
        if asked:
            _end(ranks, signals, asked)
            return 128 + asked
        failures = [(rank, code) for rank, code in _reap(ranks) if code]
        if failures:
            # Ranks that were found dead together: the one that a signal ended is the cause, the others noticed it.
            rank, code = min(failures, key=lambda failure: failure[1] > 0)
            how = f"ended with exit code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
            _say(f"rank {rank} {how}; ending the other {len(ranks)}")
            _end(ranks, signals, signal.SIGTERM)
            return code if code > 0 else 128 - code
    return 0


def _reap(ranks: dict[int, subprocess.Popen[bytes]]) -> list[tuple[int, int]]:
    """Remove the ranks that have ended; return them with their exit codes (-N for signal N)."""
    ended = [(rank, code) for rank, process in ranks.items() if (code := process.poll()) is not None]
    for rank, _ in ended:
        del ranks[rank]
    return ended


def _end(ranks: dict[int, subprocess.Popen[bytes]], signals: socket.socket, number: int) -> None:
    """End all ranks: the signal, two seconds, SIGKILL."""
    _send(ranks, number)
    deadline = time.monotonic() + GRACE_S
    while ranks and (left_s := deadline - time.monotonic()) > 0:
        _wait(signals, left_s)
        _reap(ranks)
    _send(ranks, signal.SIGKILL)
    for process in ranks.values():
        process.wait()


def _send(ranks: dict[int, subprocess.Popen[bytes]], number: int) -> None:
    for process in ranks.values():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


@contextlib.contextmanager
def _wakeup() -> Iterator[socket.socket]:
    """Turn SIGCHLD and the forwarded signals into bytes on a socket: none is lost, and nothing is polled."""
    receiver, sender = socket.socketpair()
    with receiver, sender:
        receiver.setblocking(False)
        sender.setblocking(False)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *_FORWARDED):
            signal.signal(number, lambda *_: None)
        yield receiver
        signal.set_wakeup_fd(-1)


def _wait(signals: socket.socket, timeout_s: float) -> int:
    """Wait until a rank may have ended; return the signal that asks the launcher to end, or 0."""
    readable, _, _ = select.select([signals], [], [], min(timeout_s, 60.0))
    received = signals.recv(4096) if readable else b""
    return next((number for number in received if number in _FORWARDED), 0)


def _say(text: str) -> None:
    print(f"hpcpar.worker.launch: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
