"""Ask for the shapes of a model: child processes trace what is not known yet, and answers are kept."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

import hpcpar
from hpcpar import workload_files
from hpcpar.control.forecast.children import family
from hpcpar.errors import HpcparError
from hpcpar.runs import state_folder
from hpcpar.shapes import Answer, Case, Model, Question
from hpcpar.storage import make_folder, write_file

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
    # Those that take longest first, so that no child ends much later than the other.
    missing.sort(
        key=lambda case: (case.tp * case.cp * case.ep > 1, case.activation_checkpointing != "none"), reverse=True
    )
    if missing:
        asked = [Question(workload=workload, options=options, cases=(case,)) for case in missing]
        with family() as children:
            answers = children.ask(asked)
        for case, fresh in zip(missing, answers, strict=True):
            if isinstance(fresh, str) or fresh.problem:
                return fresh if isinstance(fresh, str) else fresh.problem
            kept[case] = fresh
            if isinstance(fresh.models[0], Model):
                _keep(_place(workload, options, case), fresh)
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
