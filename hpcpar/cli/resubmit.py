"""hpcpar resubmit."""

from __future__ import annotations

from typing import Any

import click

from hpcpar.cli.output import print_json, warn
from hpcpar.cli.selection import all_runs, select_runs
from hpcpar.errors import InputError, Problem, nearest

_EPILOG = """
\b
Examples:
  hpcpar resubmit                              all that failed and was not cancelled
  hpcpar resubmit --cause oom_host,node_fail   only these
  hpcpar resubmit 4c457a06ee-r1 --time 2h      one run, with a longer time limit
  hpcpar resubmit runs/llama-strong --dry-run  say what would be sent
"""


@click.command(epilog=_EPILOG)
@click.argument("runs", nargs=-1, metavar="[RUN...]")
@click.option("--cause", "causes", multiple=True, metavar="CAUSE,...", help="Only what failed of these causes.")
@click.option("--time", metavar="DURATION", help="Another time limit.")
@click.option("--memory", metavar="SIZE", help="Another memory a node.")
@click.option("--new-code", is_flag=True, help="Run your own files as they are now, not as when first sent.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the runs that are sent as JSON.")
def command(
    runs: tuple[str, ...], causes: tuple[str, ...], new_code: bool, dry_run: bool, as_json: bool, **changes: Any
) -> int:
    """Send failed runs again, as they were planned. RUN is a run's name, or the folder of a run, a study or several.

    A run goes on in its own folder, from its last checkpoint if it has one. What runs, waits or is done is left alone,
    and what was cancelled too, unless --cause names it.
    """
    from hpcpar.control.again import resubmit
    from hpcpar.control.submit import submit

    wanted = _known(causes)
    candidates, trouble = resubmit.look(select_runs(runs) if runs else all_runs())
    for text in trouble:
        warn(text)
    chosen = resubmit.choose(candidates, wanted)
    given = {key: value for key, value in changes.items() if value}
    prepared = resubmit.prepare_again(chosen, {}, given, new_code=new_code)
    if not dry_run:
        for ready in prepared:
            submit(ready)
    sent = {run.spec.run_name for ready in prepared for batch in ready.batches for run in batch.runs}
    told = [one for one in chosen if one.run.path.name in sent]
    if as_json:
        print_json([{"run": one.run.path.name, "cause": _word(one)} for one in told])
        return 0
    count = f"{len(told)} run{'s' * (len(told) != 1)}"
    click.echo(f"{count} would be sent again" if dry_run else f"{count} sent again", err=True)
    for one in told:
        click.echo(f"{one.run.path.name}  {_word(one)}")
    return 0


def _word(one: Any) -> str:
    return str(one.outcome.cause or one.outcome.state)


def _known(given: tuple[str, ...]) -> list[str]:
    from hpcpar.records import Cause

    known = [str(cause) for cause in Cause if cause != Cause.OK]
    causes = [word.strip() for text in given for word in text.split(",") if word.strip()]
    problems = [
        Problem(f"--cause '{word}'", "is no cause", nearest(word, known)) for word in causes if word not in known
    ]
    if given and not causes:
        problems.append(Problem("--cause", "is empty", f"one or more of: {', '.join(known)}"))
    if problems:
        raise InputError(problems)
    return causes
