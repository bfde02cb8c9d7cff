"""hpcpar status, and the waiting of `submit --wait`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcpar.cli.output import print_json, warn
from hpcpar.errors import InputError, Problem
from hpcpar.runs import StudyFolder, find_studies, remembered_studies, runs_root
from hpcpar.storage import is_folder
from hpcpar.units import human_duration

if TYPE_CHECKING:
    from hpcpar.control.status import Status, StatusRow

_EPILOG = """
\b
Examples:
  hpcpar status                    all studies of this runs folder
  hpcpar status runs/llama-strong  one study
  hpcpar status --watch            again and again, until everything has ended
  hpcpar status --json
"""
_ROWS_SHOWN = 60
_COLOURS = {"done": "green", "failed": "red", "running": "cyan", "queued": "yellow", "submitted": "yellow"}


@click.command(epilog=_EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--all", "show_all", is_flag=True, help=f"Show every run; without it, at most {_ROWS_SHOWN} a study.")
@click.option("--watch", is_flag=True, help="Look again until everything has ended.")
@click.option("--interval", default=2.0, type=click.FloatRange(min=0.2), help="Seconds between looks (default: 2).")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(paths: tuple[Path, ...], show_all: bool, watch: bool, interval: float, as_json: bool) -> int:
    """Say what became of the runs: state, cause, progress, why they wait.

    PATHS are runs folders or studies; without one: HPCPAR_RUNS, ./runs, or the studies submitted last.
    Exit code 1 when a run has failed or cannot be read.
    """
    from hpcpar.control.status import get_status

    studies = choose_studies(paths)
    if watch:
        return wait_for(studies, as_json=as_json, interval=interval, show_all=show_all)
    status = get_status(studies)
    _print(status, show_all=show_all, as_json=as_json)
    return _exit_code(status)


def _exit_code(status: Status) -> int:
    return int(status.counts.get("failed", 0) > 0 or bool(status.unreadable))


def choose_studies(paths: tuple[Path, ...], *, latest: bool = False) -> list[StudyFolder]:
    """Find the studies that the user means.

    Raises:
        InputError: there are none.
    """
    if paths:
        found = [study for path in paths for study in find_studies(path.absolute())]
    else:
        root = runs_root("")
        found = find_studies(root) if is_folder(root) else []
    if not found and not paths:
        found = list(remembered_studies())
        found = found[:1] if latest else found
    if not found:
        where = ", ".join(str(path) for path in paths) or str(runs_root(""))
        raise InputError(Problem(where, "holds no study", "name a runs folder, or submit one: `hpcpar submit --help`"))
    return list({study.path: study for study in found}.values())


def wait_for(
    studies: list[StudyFolder], *, as_json: bool = False, interval: float = 2.0, show_all: bool = False
) -> int:
    """Stay until everything has ended; a terminal sees the table change, a log file a line now and then."""

    if sys.stderr.isatty():
        status = _watch_on_terminal(studies, interval, show_all)
    else:
        status = _wait_for_log(studies, interval)
    _print(status, show_all=show_all, as_json=as_json)
    return _exit_code(status)


def _wait_for_log(studies: list[StudyFolder], interval: float) -> Status:
    from hpcpar.control.status import get_status

    status = get_status(studies)
    said: Any = None
    before: list[str] = []
    warned: set[str] = set()
    while not status.finished:
        if status.counts != said:
            click.echo(_counts(status), err=True)
            said = status.counts
        # What stands at two looks in a row: a queue that is just starting is no queue that has stopped.
        for text in status.trouble:
            if text in before and text not in warned:
                warn(text)
                warned.add(text)
        before = status.trouble
        time.sleep(interval)
        status = get_status(studies)
    return status


def _watch_on_terminal(studies: list[StudyFolder], interval: float, show_all: bool) -> Status:
    from rich.console import Console
    from rich.live import Live

    from hpcpar.control.status import get_status

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as screen:
        while True:
            status = get_status(studies)
            screen.update(_renderable(status, show_all), refresh=True)
            if status.finished:
                return status
            time.sleep(interval)


def _print(status: Status, *, show_all: bool, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    from rich.console import Console

    terminal = sys.stdout.isatty()
    # In a file or a pipe a table must not be cut at some invented width.
    console = Console(highlight=False, width=None if terminal else 200)
    console.print(_renderable(status, show_all))
    for text in status.trouble:
        warn(text)


def _renderable(status: Status, show_all: bool) -> Any:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for study in dict.fromkeys(row.study for row in status.rows):
        rows = [row for row in status.rows if row.study == study]
        table = Table(title=_safe(study), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for heading in ("run", "strategy", "mesh", "nodes", "repeat", "state", "step", "elapsed", "note"):
            table.add_column(heading, justify="right" if heading in ("nodes", "repeat", "step", "elapsed") else "left")
        shown = rows if show_all else _most_telling(rows)
        for row in shown:
            style = _COLOURS.get(row.state, "")
            state = Text(row.state + (f": {row.cause}" if row.cause else ""), style=style)
            step = f"{row.step}/{row.steps}" if row.step else ""
            elapsed = "" if row.elapsed_s is None else human_duration(row.elapsed_s)
            cells = (row.run, row.strategy, row.mesh, str(row.nodes), str(row.repeat))
            table.add_row(*map(_safe, cells), state, step, elapsed, _safe(row.note if row.state != "done" else ""))
        parts.append(table)
        if len(shown) < len(rows):
            parts.append(Text(f"... and {len(rows) - len(shown)} more (--all shows them)"))
    parts.append(Text(_counts(status)))
    return Group(*parts)


def _most_telling(rows: list[StatusRow]) -> list[StatusRow]:
    """Choose what fits on a screen: failures first, then what runs, then the rest; kept in the table's order."""
    rank = {"failed": 0, "running": 1, "queued": 2, "submitted": 2, "planned": 3, "done": 4}
    chosen = sorted(range(len(rows)), key=lambda i: (rank.get(rows[i].state, 5), i))[:_ROWS_SHOWN]
    return [rows[i] for i in sorted(chosen)]


def _safe(text: str) -> Any:
    from rich.text import Text

    from hpcpar.cli import printable

    return Text(printable(text.replace("\n", " ")))


def _counts(status: Status) -> str:
    total = len(status.rows)
    states = ", ".join(f"{n} {state}" for state, n in status.counts.items())
    return f"{total} run{'s' * (total != 1)}" + (f": {states}" if states else "")
