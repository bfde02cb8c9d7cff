"""hpcpar rerun."""

from __future__ import annotations

import click

from hpcpar.cli import printable
from hpcpar.cli.output import print_json, warn
from hpcpar.cli.selection import select_runs
from hpcpar.errors import InputError, Problem

_EPILOG = """
\b
Examples:
  hpcpar rerun 4c457a06ee-r1 --dry-run   say what differs from when it was sent
  hpcpar rerun 4c457a06ee-r1             run it once more, if nothing does
"""


@click.command(epilog=_EPILOG)
@click.argument("run", metavar="RUN")
@click.option("--dry-run", is_flag=True, help="Only compare.")
@click.option("--anyway", is_flag=True, help="Run it although something differs.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(run: str, *, dry_run: bool, anyway: bool, as_json: bool) -> int:
    """Run RUN once more with the same bytes, done or not; where they cannot be the same, say what differs.

    Compared are spec.json, the job script of its batch byte by byte, a workload file of your own, and the versions of
    the packages. Exit code 1 when something differs; nothing is sent then, unless --anyway.
    """
    from hpcpar.control.again.rerun import again, compare
    from hpcpar.control.submit import submit

    found = select_runs([run])
    if len(found) != 1:
        raise InputError(Problem(run, f"holds {len(found)} runs", "name one of them: see `hpcpar status`"))
    comparison = compare(found[0])
    for text in comparison.unchecked:
        warn(f"not compared: {text}")
    refused = bool(comparison.differences) and not anyway
    jobs = [] if dry_run or refused else submit(again(found[0], comparison))
    if as_json:
        print_json({"differences": comparison.differences, "unchecked": comparison.unchecked, "jobs": jobs})
        return int(bool(comparison.differences) and not jobs)
    for text in comparison.differences:
        click.echo(printable(text))
    same = "" if comparison.differences else "the same bytes"
    sent = f"sent again as {jobs[0]}" if jobs else "nothing was sent"
    click.echo(f"{same or f'{len(comparison.differences)} differences'}; {sent}", err=True)
    return int(bool(comparison.differences) and not jobs)
