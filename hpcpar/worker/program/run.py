"""Start the user's program on this rank, wait for its end, and make records of what it said. Imports torch."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from torch import distributed

from hpcpar import snapshot
from hpcpar.errors import RunError
from hpcpar.log import VARIABLE
from hpcpar.records import Cause, Step
from hpcpar.worker.addresses import LOOPBACK
from hpcpar.worker.causes import tells_of_a_lost_peer
from hpcpar.worker.context import JobContext
from hpcpar.worker.lifeline import tie_to
from hpcpar.worker.program import words
from hpcpar.worker.program.listen import Ear, Line
from hpcpar.worker.rendezvous import Place
from hpcpar.worker.workloads.script import ScriptOptions

_LAST_BYTES = 2000
"""How much of the end of stderr goes into the cause of a death."""


class Told(NamedTuple):
    """What a rank knows of its program once it has ended."""

    seconds: float
    """From its start to its end."""
    times_s: list[float]
    """Of its steps; empty where it did not log."""
    losses: list[float | None]
    samples: list[float | None]


class Ran(NamedTuple):
    """What rank 0 makes of what all ranks were told."""

    steps: list[Step]
    whole_program: bool
    """There is one step, which is all of the program."""
    notes: tuple[str, ...]


class Program:
    """One process of the user's program."""

    def __init__(self, context: JobContext, options: ScriptOptions) -> None:
        self._context = context
        self._words = words.filled(options.command, words.numbers(context.identity))
        if self._words[0] in ("python", "python3"):
            self._words[0] = sys.executable
        self._place: Place = context.store_at
        self._store: Any = None
        if self._place is None:
            self._place, self._store = _own_store()

    def run(self, folder: str, heard: Callable[[int], None]) -> Told:
        """Run it to its end.

        Args:
            folder: where it is started.
            heard: called with the number of steps so far, from a thread.

        Raises:
            RunError: it cannot be started, or ends with another exit code than 0; with its last lines.
        """
        with Ear(heard) as ear:
            begun = time.monotonic()
            self._words = snapshot.located(self._words, folder)
            process = self._start(folder, {VARIABLE: str(ear.path)})
            last = _Tail(process.stderr)
            code = process.wait()
            ended = time.monotonic()
        if code:
            raise _death(self._words[0], code, last.text())
        return told(begun, ended, ear.lines)

    def _start(self, folder: str, more: dict[str, str]) -> subprocess.Popen[bytes]:
        context = self._context
        environment = {
            **os.environ,
            **torchrun_variables(context, self._place),
            **words.variables(context.identity),
            **more,
        }
        try:
            return subprocess.Popen(
                self._words,
                cwd=folder or None,
                env=environment,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                preexec_fn=tie_to(os.getpid()),  # noqa: PLW1509  it makes one system call
            )
        except OSError as error:
            what = f"cannot start '{self._words[0]}' in '{folder or os.curdir}': {error.strerror}"
            raise RunError(Cause.LAUNCH, what) from error

    def close(self) -> None:
        """Give the store back."""
        self._store = None


def torchrun_variables(context: JobContext, place: Place) -> dict[str, str]:
    """Return what torchrun sets (torch 2.13, elastic/agent/server/local_elastic_agent.py), without restarts.

    The store is the worker's, as with torchrun it is the agent's: the program is a client of it on every rank.
    """
    info = context.info
    per_node = info.world_size // info.nodes
    return {
        "RANK": str(info.rank),
        "LOCAL_RANK": str(info.local_rank),
        "WORLD_SIZE": str(info.world_size),
        "LOCAL_WORLD_SIZE": str(per_node),
        "GROUP_RANK": str(info.node_rank),
        "GROUP_WORLD_SIZE": str(info.nodes),
        "ROLE_RANK": str(info.rank),
        "ROLE_WORLD_SIZE": str(info.world_size),
        "ROLE_NAME": "default",
        "MASTER_ADDR": place.host,
        "MASTER_PORT": str(place.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": info.attempt,
    }


def _own_store() -> tuple[Place, Any]:
    """Host a store for a world of one rank, which meets nobody."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = distributed.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False)
    return Place(LOOPBACK, store.port), store


class _Tail:
    """Copies a program's stderr to the rank's log, and keeps its end."""

    def __init__(self, stream: Any) -> None:
        self._kept = b""
        self._thread = threading.Thread(target=self._copy, args=(stream,), daemon=True, name="stderr")
        self._thread.start()

    def _copy(self, stream: Any) -> None:
        while content := stream.read1(65536):
            with contextlib.suppress(OSError):
                os.write(2, content)
            self._kept = (self._kept + content)[-_LAST_BYTES:]

    def text(self) -> str:
        """Return the last lines; a grandchild that keeps the stream open is not waited for."""
        self._thread.join(2)
        return self._kept.decode(errors="replace").strip()


def _death(program: str, code: int, last: str) -> RunError:
    how = f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"
    ending = f"; its last lines:\n{last}" if last else "; it wrote nothing to stderr"
    cause = Cause.PYTHON_ERROR if code > 0 or -code in (4, 6, 7, 8, 11) else Cause.KILLED
    if cause == Cause.PYTHON_ERROR and tells_of_a_lost_peer(last):
        cause = Cause.NETWORK
    return RunError(cause, f"the program '{os.path.basename(program)}' {how}{ending}")  # noqa: PTH119


def told(begun: float, ended: float, lines: Sequence[Line]) -> Told:
    """Make times of what a program said; its first step begins with the program."""
    marks = [begun, *(line.time for line in lines)]
    times_s = [later - earlier for earlier, later in itertools.pairwise(marks)]
    finite = [line.loss if line.loss is not None and math.isfinite(line.loss) else None for line in lines]
    return Told(ended - begun, times_s, finite, [line.samples for line in lines])


def reduce(everybody: Sequence[Told], global_batch: int, *, declared: bool) -> Ran:
    """Make the step records of all ranks' words. Ranks that said nothing do not count, unless all are silent."""
    speakers = [(rank, one) for rank, one in enumerate(everybody) if one.times_s]
    if not speakers:
        seconds = [one.seconds for one in everybody]
        note = "timed from outside: the one time is that of the whole program, its start included"
        return Ran([_record(1, dict(enumerate(seconds)), [], [])], True, (note,))
    count = min(len(one.times_s) for _, one in speakers)
    steps = [
        _record(
            k + 1,
            {rank: one.times_s[k] for rank, one in speakers},
            [one.losses[k] for _, one in speakers],
            [one.samples[k] for _, one in speakers],
        )
        for k in range(count)
    ]
    return Ran(steps, False, tuple(_notes(everybody, speakers, steps, global_batch, declared)))


def _notes(everybody: Any, speakers: Any, steps: Sequence[Step], global_batch: int, declared: bool) -> Any:
    if len(speakers) < len(everybody):
        yield f"timed from inside by {len(speakers)} of {len(everybody)} ranks: the slowest of the others is not known"
    lengths = {len(one.times_s) for _, one in speakers}
    if len(lengths) > 1:
        yield f"ranks logged {min(lengths)} to {max(lengths)} steps: the first {min(lengths)} count"
    told_samples = all(value is not None for _, one in speakers for value in one.samples)
    if declared and told_samples and len(speakers) == len(everybody):
        odd = sorted({step.weight for step in steps if step.weight != global_batch})
        if odd:
            yield f"the program processed {odd[0]:g} samples a step where {global_batch} were planned"


def _record(number: int, times_s: dict[int, float], losses: list[float | None], samples: list[float | None]) -> Step:
    weights = [1.0 if value is None else value for value in samples]
    known = [(loss, weight) for loss, weight in zip(losses, weights, strict=True) if loss is not None]
    total = sum(weight for _, weight in known)
    slowest = max(times_s, key=lambda rank: times_s[rank])
    return Step(
        step=number,
        time_s=times_s[slowest],
        time_min_s=min(times_s.values()),
        time_mean_s=sum(times_s.values()) / len(times_s),
        slowest=slowest,
        loss=sum(loss * weight for loss, weight in known) / total if total and len(known) == len(losses) else None,
        weight=sum(weights),
    )


def encode(one: Told) -> bytes:
    """Pack it for rank 0."""
    return msgspec.json.encode(one)


def decode(content: bytes) -> Told:
    """Unpack it."""
    return msgspec.json.decode(content, type=Told)
