"""Which runs the user means: folders of runs, studies or runs folders, or names as `hpcpar status` prints them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hpcpar.errors import InputError, Problem, nearest
from hpcpar.runs import RunFolder, StudyFolder, find_studies, remembered_studies, runs_root
from hpcpar.storage import is_file, is_folder


def select_runs(words: Iterable[str]) -> list[RunFolder]:
    """Find all runs that the words name: a path (its runs), or a run's name or the beginning of one.

    Raises:
        InputError: a word names nothing, or the beginning of several runs.
    """
    problems: list[Problem] = []
    found: dict[Path, RunFolder] = {}
    for word in words:
        try:
            found |= {run.path: run for run in _select(word)}
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
    return list(found.values())


def all_runs() -> list[RunFolder]:
    """Find all runs that `hpcpar status` would show without a path.

    Raises:
        InputError: there are none.
    """
    from hpcpar.cli.status import choose_studies

    return [run for study in choose_studies(()) for run in study.runs()]


def _select(word: str) -> list[RunFolder]:
    if not word:
        raise InputError(Problem("an empty name", "names no run", "see `hpcpar status`"))
    path = Path(word).absolute()
    if is_file(path / "spec.json"):
        return [RunFolder(path)]
    if is_folder(path):
        return [run for study in find_studies(path) for run in study.runs()]
    return [_by_name(word)]


def _by_name(word: str) -> RunFolder:
    known = {run.path: run for study in _studies() for run in study.runs()}
    exact = [run for run in known.values() if run.path.name == word]
    matches = exact or [run for run in known.values() if word and run.path.name.startswith(word)]
    if len(matches) == 1:
        return matches[0]
    where = f"run '{word}'"
    if matches:
        some = ", ".join(sorted(str(run.path) for run in matches)[:5])
        raise InputError(Problem(where, f"could be {len(matches)} runs", some))
    hint = nearest(word, [run.path.name for run in known.values()]) or "see `hpcpar status`"
    raise InputError(Problem(where, "is not known here", hint))


def _studies() -> list[StudyFolder]:
    root = runs_root("")
    here = find_studies(root) if is_folder(root) else []
    return [*here, *remembered_studies()]
