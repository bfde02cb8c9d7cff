"""Ask the tracer for shapes: a child process with bounded time and memory, and an answer that is kept."""

from __future__ import annotations

import functools
import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

import hpcpar
from hpcpar import workload_files
from hpcpar.errors import HpcparError
from hpcpar.runs import state_folder
from hpcpar.shapes import Answer, Case, Model, Question
from hpcpar.storage import make_folder, write_file

PATIENCE_S = 300.0
"""Longer than any trace takes, also on a busy machine."""
CPU_S = 90
"""Of one processor; a login node is shared."""
MEMORY_BYTES = 16 * 2**30
"""Address space of the child. It holds the workload's data, and tensors without memory."""
FEW = 4
"""Cases that one child traces in less time than a second one takes to start."""
_LAST_LINES = 3
_FOLDER = "shapes"


class Shapes(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for every case."""

    models: dict[Case, Model | str]
    answer: Answer


def ask(workload: str, options: dict[str, Any], cases: Iterable[Case], *, trace: bool = True) -> Shapes | str:
    """Return the shapes of a workload in every case; a sentence where they cannot be known.

    Args:
        workload: a name, or path/to/file.py:NAME.
        options: all of them.
        cases: how its units are computed.
        trace: whether to start a child for what is not known yet; else only what earlier answers hold.
    """
    wanted = list(dict.fromkeys(cases))
    kept = {case: _kept(_place(workload, options, case)) for case in wanted}
    missing = [case for case, answer in kept.items() if answer is None]
    if missing and not trace:
        return "its shapes have not been traced yet: `hpcpar plan` does"
    if missing:
        halves = [missing] if len(missing) <= FEW else [missing[::2], missing[1::2]]
        with ThreadPoolExecutor(len(halves)) as pool:
            asked = [Question(workload=workload, options=options, cases=tuple(half)) for half in halves]
            answers = list(pool.map(_ask, asked))
        for half, fresh in zip(halves, answers, strict=True):
            if isinstance(fresh, str) or fresh.problem:
                return fresh if isinstance(fresh, str) else fresh.problem
            for case, model in zip(half, fresh.models, strict=True):
                kept[case] = one = msgspec.structs.replace(fresh, models=(model,))
                if isinstance(model, Model):
                    _keep(_place(workload, options, case), one)
    found = {case: answer for case, answer in kept.items() if answer is not None}
    return Shapes(models={case: answer.models[0] for case, answer in found.items()}, answer=next(iter(found.values())))


def known() -> bool:
    """Say whether any model has been traced before."""
    return any((state_folder() / _FOLDER).glob("*.json"))


def _place(workload: str, options: dict[str, Any], case: Case) -> Path:
    """Return where the answer to one case is kept: its name says all that it depends on, this code included."""
    file = workload_files.split(workload)
    digest = workload_files.digest(file[0]) if file else ""
    words = msgspec.json.encode([hpcpar.__version__, _code(), workload, digest, options, case], order="deterministic")
    return state_folder() / _FOLDER / f"{hashlib.sha256(words).hexdigest()[:24]}.json"


@functools.cache
def _code() -> str:
    """Return a word for the installed code: an answer of other code must not be taken for one of this."""
    folder = Path(hpcpar.__file__).parent
    stamps = [str(path.stat().st_mtime_ns) for path in sorted(folder.glob("worker/**/*.py"))]
    return hashlib.sha256("".join(stamps).encode()).hexdigest()[:16]


_MEMORY: dict[Path, Answer] = {}


def _kept(path: Path) -> Answer | None:
    if path in _MEMORY:
        return _MEMORY[path]
    try:
        _MEMORY[path] = msgspec.json.decode(path.read_bytes(), type=Answer)
        return _MEMORY[path]
    except (OSError, msgspec.DecodeError):
        return None


def _keep(path: Path, answer: Answer) -> None:
    _MEMORY[path] = answer
    try:
        make_folder(path.parent)
        write_file(path, msgspec.json.encode(answer))
    except (OSError, HpcparError):  # a full or read-only home: the next plan traces again
        return


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _ask(question: Question) -> Answer | str:
    command = [sys.executable, "-P", "-m", "hpcpar.worker.trace"]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # nothing is computed, and a login node is shared
    try:
        done = subprocess.run(
            command,
            input=msgspec.json.encode(question),
            capture_output=True,
            timeout=PATIENCE_S,
            preexec_fn=_bound,
            env={**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ""},
        )
    except subprocess.TimeoutExpired:
        return f"its shapes were not traced within {PATIENCE_S:g} s"
    try:
        return msgspec.json.decode(done.stdout, type=Answer)
    except msgspec.DecodeError:
        if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
            return f"its shapes were not traced within {CPU_S} s of one processor"
        last = done.stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        words = " / ".join(line.strip() for line in last) or f"exit code {done.returncode}"
        return f"its shapes cannot be traced: {words}"
