"""hpcpar logs."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import click

from hpcpar.cli.output import print_json
from hpcpar.cli.selection import select_runs
from hpcpar.errors import InputError, Problem
from hpcpar.runs import RunFolder, StudyFolder
from hpcpar.storage import open_file

_EPILOG = """
\b
Examples:
  hpcpar logs 4c457a06ee-r1               the job script and rank 0 of the latest attempt
  hpcpar logs 4c457a06ee --rank 3 -n 20   the last 20 lines of rank 3
  hpcpar logs 4c457a06ee --follow         and what comes, until the run has ended
"""

_NOT_BEGUN = "no rank has begun: see `hpcpar status`"


@click.command(epilog=_EPILOG)
@click.argument("run", metavar="RUN")
@click.option("--rank", type=click.IntRange(min=0), help="Which rank (default: 0).")
@click.option("--attempt", default="", help="An earlier attempt, as --json lists them (default: the latest).")
@click.option("-n", "--lines", type=click.IntRange(min=1), help="Only the last lines of each file.")
@click.option("--follow", is_flag=True, help="Go on with what is printed, until the run has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print the paths of all logs, by attempt.")
def command(run: str, *, rank: int | None, attempt: str, lines: int | None, follow: bool, as_json: bool) -> int:
    """Print what the job script and a rank of RUN printed. RUN is a name as `hpcpar status` shows it, or a folder.

    What a terminal would obey is shown as escapes.
    """
    found = select_runs([run])
    if len(found) != 1:
        raise InputError(Problem(run, f"holds {len(found)} runs", "name one of them: see `hpcpar status`"))
    folder = found[0]
    if as_json:
        print_json({name: [str(path) for path in _logs(folder, name)] for name in _attempts(folder)})
        return 0
    _refuse_attempt(folder, attempt)
    if rank is not None:
        _refuse_rank(folder, attempt, rank, follow=follow)
    rank = rank or 0
    paths = _wanted(folder, attempt, rank)
    if not follow and not paths:
        raise _no_log(folder, attempt, rank)
    places = {path: _print(path, 0, lines) for path in paths}
    going = follow
    while going:
        time.sleep(0.5)
        going = _is_under_way(folder)  # before the last look: what was printed until then is shown
        for path in _wanted(folder, attempt, rank):
            places[path] = _print(path, places.get(path, 0), None)
    return 0


def _refuse_attempt(folder: RunFolder, attempt: str) -> None:
    there = _attempts(folder)
    if attempt and attempt not in there:
        hint = f"there are: {', '.join(there)}" if there else _NOT_BEGUN
        raise InputError(Problem(folder.path.name, f"has no attempt '{attempt}'", hint))


def _refuse_rank(folder: RunFolder, attempt: str, rank: int, *, follow: bool) -> None:
    """Refuse a rank without a log, unless it is one of the run's own that may still print something."""
    spec = folder.spec()
    may_come = follow and (spec is None or rank < spec.identity.world_size)
    if rank not in _ranks(folder, _latest(folder, attempt)) and not may_come:
        raise _no_log(folder, attempt, rank)


def _no_log(folder: RunFolder, attempt: str, rank: int) -> InputError:
    ranks = ", ".join(map(str, _ranks(folder, _latest(folder, attempt))))
    hint = f"ranks with a log: {ranks}" if ranks else _NOT_BEGUN
    return InputError(Problem(folder.path.name, f"has no log of rank {rank}", hint))


def _ranks(folder: RunFolder, attempt: str) -> list[int]:
    """Return the ranks of an attempt that printed something."""
    mark = f"{attempt}."
    names = [path.name for path in _files(folder.logs) if path.name.startswith(mark)]
    numbers = (name.removeprefix(mark).removesuffix(".log") for name in names)
    return sorted(int(number) for number in numbers if number.isascii() and number.isdecimal())


def _wanted(folder: RunFolder, attempt: str, rank: int) -> list[Path]:
    name = _latest(folder, attempt)
    script = _script_log(folder, name)
    candidates = (script, folder.logs / f"{name}.{rank}.log")
    return [path for path in candidates if path is not None and path.is_file() and not path.is_symlink()]


def _attempts(folder: RunFolder) -> list[str]:
    named = {path.name.rsplit(".", 2)[0] for path in _files(folder.logs)}
    return [*sorted(named - set(folder.attempts())), *folder.attempts()]


def _latest(folder: RunFolder, attempt: str) -> str:
    attempts = _attempts(folder)
    return attempt or (attempts[-1] if attempts else "")


def _script_log(folder: RunFolder, attempt: str) -> Path | None:
    submitted = [line for line in folder.submissions() if line.kind == "submitted"]
    if not submitted:
        return None
    job_id = attempt.rpartition(".")[0] or submitted[-1].job_id
    batch = next((line.batch for line in reversed(submitted) if line.job_id == job_id), "")
    return StudyFolder(folder.path.parent).batch(batch).logs / f"{job_id}.log" if batch else None


def _logs(folder: RunFolder, attempt: str) -> list[Path]:
    script = _script_log(folder, attempt)
    ranks = [path for path in _files(folder.logs) if path.name.startswith(f"{attempt}.")]
    return [path for path in (script, *sorted(ranks)) if path is not None and path.is_file()]


def _files(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.name.endswith(".log") and not entry.is_symlink()]
    except OSError:
        return []


def _print(path: Path, place: int, last: int | None) -> int:
    """Print a file from a place on, or its last lines; return the place behind what was printed."""
    from hpcpar.cli import printable

    try:
        with open_file(path) as file:
            file.seek(place)
            for line in deque(file, maxlen=last):
                click.echo(printable(line.decode(errors="replace").replace("\t", "    ")), nl=False)
            return file.tell()
    except OSError:
        return place


def _is_under_way(folder: RunFolder) -> bool:
    from hpcpar.control.cancel import under_way

    return bool(under_way([folder])[0])
