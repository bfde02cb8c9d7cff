"""hpcpar collect."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from hpcpar.cli import printable
from hpcpar.cli.output import escape_json, warn
from hpcpar.cli.status import choose_studies

_EPILOG = """
\b
Examples:
  hpcpar collect                                   the tables, for people
  hpcpar collect runs/llama-tiny-strong --out report   also CSV, JSON, Markdown, PNG and SVG into report/
  hpcpar collect --baseline ddp@1 --format csv > scaling.csv
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
@click.option("--format", "form", type=click.Choice(["text", "md", "csv", "json"]), default="text", help="On stdout.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Also save tables and figure in this folder."
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
    out: Path | None,
    offline: bool,
) -> int:
    """Turn the runs' records into tables: scaling, strategies against each other, laws; all with intervals.

    PATHS are runs folders or studies; without one: HPCPAR_RUNS, ./runs, or the study submitted last. Failed and missing
    runs are rows, too; exit code 1 while there are any.
    """
    studies = choose_studies(paths, latest=True)
    if not offline:
        from hpcpar.control.reconcile import reconcile

        for text in reconcile(studies).trouble:
            warn(text)
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
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    printed = {
        "text": lambda: results.to_text(width=width),
        "md": results.to_markdown,
        "csv": results.to_csv,
        "json": results.to_json,
    }[form]()
    printed = escape_json(printed) if form == "json" else printable(printed)
    sys.stdout.write(printed if printed.endswith("\n") else printed + "\n")
    if out is not None:
        for path in results.save(out.absolute(), warn):
            click.echo(f"wrote {path}", err=True)
    failing = results.failing(fail_on) if fail_on else []
    for line in failing:
        warn(line)
    return 0 if results.complete and not failing else 1
