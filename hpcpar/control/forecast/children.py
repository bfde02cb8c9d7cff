"""Child processes that trace models: bounded in time and memory, started once, asked as long as there are questions."""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO

import msgspec

from hpcpar.shapes import Answer, Question

PATIENCE_S = 300.0
"""Longer than any trace takes, also on a busy machine."""
CPU_S = 90
"""Of one processor, of each child; a login node is shared."""
MEMORY_BYTES = 16 * 2**30
"""Address space of a child. It holds the workload's data, and tensors without memory."""
MOST = 2
"""Children at a time."""
_LAST_LINES = 3


class Child:
    """One process: a question a line goes in, an answer a line comes out."""

    def __init__(self) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the child
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # nothing is computed, and a login node is shared
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hpcpar.worker.trace"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=_bound,  # noqa: PLW1509 - where a child is started, no question is under way
            env={**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ""},
        )

    @property
    def ended(self) -> bool:
        """Say whether it has: it crashed, or was ended for the time that it took."""
        return self._process.poll() is not None

    def ask(self, question: Question) -> Answer | str:
        """Return the answer; a sentence where the child did not live to give one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(PATIENCE_S, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(msgspec.json.encode(question) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = b""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        try:
            return msgspec.json.decode(line, type=Answer)
        except msgspec.DecodeError:
            return self._last_words(late=late)

    def _last_words(self, *, late: bool) -> str:
        code = self._process.wait()
        if late:
            return f"its shapes were not traced within {PATIENCE_S:g} s"
        if code in {-signal.SIGXCPU, -signal.SIGKILL}:
            return f"its shapes were not traced within {CPU_S} s of one processor"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        words = " / ".join(line.strip() for line in last) or f"exit code {code}"
        return f"its shapes cannot be traced: {words}"

    def close(self) -> None:
        """End it: it leaves when nobody will ask any more."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


class Family:
    """Children that are there as long as they are needed; each takes the next question when it has answered."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def ask(self, questions: Sequence[Question]) -> list[Answer | str]:
        """Return the answers in the order of the questions."""
        for child in [child for child in self._children if child.ended]:
            child.close()
            self._children.remove(child)
        while len(self._children) < min(MOST, len(questions)):
            self._children.append(Child())
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(questions)):
            waiting.put(place)
        answers: dict[int, Answer | str] = {}
        workers = [threading.Thread(target=_work, args=(c, questions, waiting, answers)) for c in self._children]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return [answers.get(place, "the process that traced it has ended") for place in range(len(questions))]

    def close(self) -> None:
        """End all of them."""
        for child in self._children:
            child.close()
        self._children.clear()


def _work(
    child: Child, questions: Sequence[Question], waiting: queue.SimpleQueue[int], answers: dict[int, Answer | str]
) -> None:
    while True:
        try:
            place = waiting.get_nowait()
        except queue.Empty:
            return
        answers[place] = child.ask(questions[place])
        if isinstance(answers[place], str):
            return  # it has ended


_FAMILY: list[Family] = []


@contextlib.contextmanager
def family() -> Iterator[Family]:
    """Have children for as long as this lasts; whoever asks for them inside gets the same ones."""
    if _FAMILY:
        yield _FAMILY[0]
        return
    made = Family()
    _FAMILY.append(made)
    try:
        yield made
    finally:
        _FAMILY.clear()
        made.close()


def _bound() -> None:
    for which, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, CPU_S)):
        hard = resource.getrlimit(which)[1]
        if hard == resource.RLIM_INFINITY or hard > most:  # a login node may allow less than this
            resource.setrlimit(which, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
