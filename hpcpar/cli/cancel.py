"""hpcpar cancel."""

from __future__ import annotations

import click

from hpcpar.cli.output import print_json, warn
from hpcpar.cli.selection import select_runs

_EPILOG = """
\b
Examples:
  hpcpar cancel 4c457a06ee-r1       one run, as `hpcpar status` names it
  hpcpar cancel runs/llama-strong   all runs of a study that wait or run
  hpcpar cancel runs --dry-run      say what would be cancelled
"""


@click.command(epilog=_EPILOG)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--dry-run", is_flag=True, help="Say what would be cancelled, and cancel nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the names of the runs as JSON.")
def command(runs: tuple[str, ...], dry_run: bool, as_json: bool) -> int:
    """Cancel runs that wait or run. RUN is a run's name, or the folder of a run, a study or several studies.

    What has ended keeps its result. A cancelled run is submitted again with the next `hpcpar submit` of its study.
    """
    from hpcpar.control.cancel import cancel, under_way

    targets, trouble = under_way(select_runs(runs))
    for text in trouble:
        warn(text)
    cancel(targets, dry_run=dry_run)
    if as_json:
        print_json([run.path.name for run in targets])
        return 0
    count = f"{len(targets)} run{'s' * (len(targets) != 1)}"
    click.echo(f"{count} would be cancelled" if dry_run else f"{count} cancelled", err=True)
    for run in targets:
        click.echo(run.path.name)
    return 0
