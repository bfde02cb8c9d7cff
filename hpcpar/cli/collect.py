"""hpcpar collect."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcpar.cli import printable
from hpcpar.cli.output import escape_json, in_unicode, warn
from hpcpar.cli.status import choose_studies
from hpcpar.errors import InputError, StorageError
from hpcpar.storage import make_folder, write_file

if TYPE_CHECKING:
    from hpcpar.analysis.results import Results
    from hpcpar.runs import StudyFolder

_EPILOG = """
\b
Examples:
  hpcpar collect                                   the tables, for people
  hpcpar collect runs/llama-tiny-strong --out report   also report.html, tables and figures into report/
  hpcpar collect --baseline ddp@1 --format csv > scaling.csv
  hpcpar collect --for archer2 --largest-job 32    the tables of a proposal, and which of them lack data
  hpcpar collect --reference ddp                   every other strategy against ddp, at equal nodes
  hpcpar collect runs/new --against runs/old --fail-on deteriorates
"""


@click.command(epilog=_EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--baseline", default="", metavar="STRATEGY@NODES", help="One baseline for all (default: each one's own)."
)
@click.option("--reference", default="", metavar="STRATEGY", help="Compare the others with it (default: the first).")
@click.option(
    "--against", multiple=True, type=click.Path(path_type=Path), help="Compare with the runs there (may be repeated)."
)
@click.option("--margin", multiple=True, metavar="METRIC=SHARE", help="A smaller change counts as none.")
@click.option("--target-loss", type=float, metavar="LOSS", help="Compare samples and time to this training loss.")
@click.option(
    "--fail-on", type=click.Choice(["deteriorates", "inconclusive"]), help="Exit with 1 where a verdict is as bad."
)
@click.option("--warmup-steps", type=click.IntRange(min=0), help="Steps left out at the start (default: the study's).")
@click.option("--efficiency-target", default=0.75, type=click.FloatRange(0, 1), help="Guide line (default: 0.75).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "md", "csv", "json", "tex", "html"]),
    default="text",
    help="On stdout.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--for",
    "programme",
    type=click.Choice(["eurohpc", "archer2", "ncar", "nersc", "generic"]),
    help="Print the performance section of such a proposal instead, and what it lacks.",
)
@click.option("--largest-job", type=click.IntRange(min=1), metavar="NODES", help="With --for: what you will ask for.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also save report, tables and figures in this folder.",
)
@click.option("--offline", is_flag=True, help="Do not ask the scheduler about runs without a result.")
def command(
    paths: tuple[Path, ...],
    *,
    baseline: str,
    reference: str,
    against: tuple[Path, ...],
    margin: tuple[str, ...],
    target_loss: float | None,
    fail_on: str | None,
    warmup_steps: int | None,
    efficiency_target: float,
    form: str,
    as_json: bool,
    programme: str | None,
    largest_job: int | None,
    out: Path | None,
    offline: bool,
) -> int:
    """Turn the runs' records into tables: scaling, strategies against each other, laws; all with intervals.

    PATHS are runs folders or studies; without one: HPCPAR_RUNS, ./runs, or the study submitted last. Failed and missing
    runs are rows, too; exit code 1 while there are any.
    """
    if as_json and form not in ("text", "json"):
        raise click.UsageError(f"--json and --format {form} are two answers: give one of them")
    if programme and (as_json or form != "text"):
        raise click.UsageError("--for prints the section of a proposal, in Markdown: leave --format and --json out")
    if largest_job is not None and not programme:
        raise click.UsageError("--largest-job stands in the section of a proposal: name its programme with --for")
    studies = choose_studies(paths, latest=True)
    if not offline:
        _ask_the_scheduler(studies)
    from hpcpar.analysis.collect import collect

    results = collect(
        [study.path for study in studies],
        baseline=baseline,
        warmup_steps=warmup_steps,
        efficiency_target=efficiency_target,
        reference=reference,
        against=against,
        margin=margin,
        target_loss=target_loss,
    )
    gaps: list[str] = []
    if programme:
        gaps = _propose(results, programme, largest_job, out)
    else:
        _print(_printed(results, "json" if as_json else form))
    if out is not None:
        with _naming_out():
            names = [str(path.relative_to(out.absolute())) for path in results.save(out.absolute(), warn)]
        click.echo(f"wrote {len(names)} files to {out.absolute()}: {', '.join(names[:3])}, ...", err=True)
    failing = results.failing(fail_on) if fail_on else []
    for line in [*(f"missing: {gap}" for gap in gaps), *failing]:
        warn(line)
    return 0 if results.complete and not failing and not gaps else 1


def _ask_the_scheduler(studies: list[StudyFolder]) -> None:
    """Note what it says of runs without a result, and what its accounting says; warn where it cannot be asked."""
    from hpcpar.control.accounting import note_accounting
    from hpcpar.control.reconcile import reconcile

    known = reconcile(studies)
    for text in [*known.trouble, *note_accounting(studies, known.live)]:
        warn(text)


@contextlib.contextmanager
def _naming_out() -> Iterator[None]:
    """Name the flag that says where this command writes: other commands have others."""
    try:
        yield
    except StorageError as error:
        raise InputError([one._replace(fix="name another place: --out DIR") for one in error.problems]) from error


def _propose(results: Results, programme: str, largest_job: int | None, out: Path | None) -> list[str]:
    """Print the performance section of a proposal, and save it where asked; return what it lacks."""
    from hpcpar.analysis.report.proposal import write
    from hpcpar.analysis.report.proposal_parts import Request

    text, gaps = write(results, programme, Request(largest_job))
    _print(printable(text))
    if out is not None:
        with _naming_out():
            make_folder(out.absolute())
            write_file(out.absolute() / f"proposal-{programme}.md", text.encode())
    return gaps


def _printed(results: Results, form: str) -> str:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    printed = {
        "text": lambda: results.to_text(width=width, chart=in_unicode()),
        "tex": results.to_latex,
        "html": results.to_html,
        "md": results.to_markdown,
        "csv": results.to_csv,
        "json": results.to_json,
    }[form]()
    return escape_json(printed) if form == "json" else printable(printed)


def _print(text: str) -> None:
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
