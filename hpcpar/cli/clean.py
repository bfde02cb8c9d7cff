"""hpcpar clean."""

from __future__ import annotations

import click

from hpcpar.cli import printable
from hpcpar.cli.output import print_json, warn
from hpcpar.cli.selection import all_runs, select_runs

_EPILOG = """
\b
Examples:
  hpcpar clean --dry-run                     what killed processes left, of all studies
  hpcpar clean runs/llama-strong             remove that, of one study
  hpcpar clean runs/llama-strong --checkpoints   and the checkpoints of runs that are done
"""


@click.command(epilog=_EPILOG)
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option("--checkpoints", is_flag=True, help="Also the checkpoints of runs that are done.")
@click.option("--logs", is_flag=True, help="Also what ranks of runs that are done have printed.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the paths as JSON.")
def command(runs: tuple[str, ...], *, checkpoints: bool, logs: bool, dry_run: bool, as_json: bool) -> int:
    """Remove what is half-written or over: temporary files, unfinished checkpoints, addresses of runs that have ended.

    RUN is a run's name, or the folder of a run, a study or several. Records, steps, events and scripts stay, and all of
    a run that waits or runs.
    """
    from hpcpar.control.clean import Wanted, find, remove
    from hpcpar.units import human_memory

    found, trouble = find(select_runs(runs) if runs else all_runs(), Wanted(checkpoints, logs))
    for text in trouble:
        warn(text)
    if not dry_run:
        remove(found)
    if as_json:
        print_json([{"path": str(one.path), "bytes": one.num_bytes} for one in found])
        return 0
    total = human_memory(sum(one.num_bytes for one in found))
    what = f"{len(found)} leftover{'s' * (len(found) != 1)} of {total}"
    click.echo(f"{what} would be removed" if dry_run else f"{what} removed", err=True)
    for one in found:
        click.echo(printable(str(one.path)))
    return 0
