"""hpcpar status, and the waiting of `submit --wait`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcpar import records
from hpcpar.cli import printable, view
from hpcpar.cli.output import print_json, warn
from hpcpar.errors import InputError, Problem
from hpcpar.runs import StudyFolder, find_studies, remembered_studies, runs_root
from hpcpar.storage import is_folder

if TYPE_CHECKING:
    from hpcpar.control.status import Status

_EPILOG = """
\b
Examples:
  hpcpar status                    all studies of this runs folder
  hpcpar status runs/llama-strong  one study
  hpcpar status --watch            again and again, until everything has ended
  hpcpar status --json
"""
ROWS_SHOWN = 60
_INTERVAL_S, _SLURM_INTERVAL_S = 2.0, 10.0


@click.command(epilog=_EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--all", "show_all", is_flag=True, help=f"Show every run; without it, at most {ROWS_SHOWN} a study.")
@click.option("--watch", is_flag=True, help="Look again until everything has ended.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2),
    help="Seconds between looks (default: 2 for this machine's queue, 10 for Slurm's).",
)
@click.option("--no-policy", is_flag=True, help="Only look: send nothing again, whatever the studies' policies say.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(
    paths: tuple[Path, ...], *, show_all: bool, watch: bool, interval: float | None, no_policy: bool, as_json: bool
) -> int:
    """Say what became of the runs: state, cause, progress and time left, why they wait and when they may start.

    Failed runs of a study with a table [policy] are sent again as it says, and status tells which.

    PATHS are runs folders or studies; without one: HPCPAR_RUNS, ./runs, or the studies submitted last.
    Exit code 1 when a run has failed or cannot be read.
    """
    studies = choose_studies(paths)
    if watch:
        return wait_for(studies, as_json=as_json, interval=interval, show_all=show_all, policy=not no_policy)
    status = _look_once(studies, policy=not no_policy)
    _print(status, show_all=show_all, as_json=as_json)
    return _exit_code(status)


def _look_once(studies: list[StudyFolder], *, policy: bool) -> Status:
    from hpcpar.control.status import get_status

    with records.without_collections():
        return get_status(studies, policy=policy)


def _exit_code(status: Status) -> int:
    return int(any(status.counts.get(state) for state in ("failed", "unreadable")) or bool(status.unreadable))


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
    studies: list[StudyFolder],
    *,
    as_json: bool = False,
    interval: float | None = None,
    show_all: bool = False,
    policy: bool = True,
) -> int:
    """Stay until everything has ended; a terminal sees the table change, a log file a line now and then."""
    from hpcpar.control.status import get_status

    def look() -> Status:
        return get_status(studies, policy=policy)

    status = _watch_on_terminal(look, interval) if sys.stderr.isatty() else _wait_for_log(look, interval)
    _print(status, show_all=show_all, as_json=as_json)
    return _exit_code(status)


def _pause_s(status: Status, interval: float | None) -> float:
    """Return how long to wait until the next look: many users watch one controller."""
    if interval is not None:
        return interval
    here = all(row.job_id.startswith("local-") for row in status.rows if row.job_id)
    return _INTERVAL_S if here else _SLURM_INTERVAL_S


def _wait_for_log(look: Callable[[], Status], interval: float | None) -> Status:
    status = look()
    said: Any = None
    before: list[str] = []
    warned: set[str] = set()
    while not status.finished:
        for text in status.sent:
            click.echo(printable(text), err=True)
        if status.counts != said:
            click.echo(view.counts(status), err=True)
            said = status.counts
        # What stands at two looks in a row: a queue that is just starting is no queue that has stopped.
        for text in status.trouble:
            if text in before and text not in warned:
                warn(text)
                warned.add(text)
        before = status.trouble
        time.sleep(_pause_s(status, interval))
        status = look()
    return status


def _watch_on_terminal(look: Callable[[], Status], interval: float | None) -> Status:
    """Fill the screen with what fits on it, and give the screen back at the end."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    sent: list[str] = []
    with Live(console=console, auto_refresh=False, screen=True) as screen:
        while True:
            status = look()
            sent += status.sent
            status.sent = sent[-3:]
            pause_s = _pause_s(status, interval)
            screen.update(view.screen(status, console.height, pause_s, console.width), refresh=True)
            if status.finished:
                return status
            time.sleep(pause_s)


def _print(status: Status, *, show_all: bool, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else view.WIDE)
    console.print(view.table(status, None if show_all else ROWS_SHOWN, console.width))
    for text in status.sent:
        click.echo(printable(text), err=True)
    for text in status.trouble:
        warn(text)
