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
"""


@click.command(epilog=_EPILOG)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--baseline", default="", metavar="STRATEGY@NODES", help="One baseline for all (default: each one's own)."
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
    warmup_steps: int | None,
    efficiency_target: float,
    form: str,
    out: Path | None,
    offline: bool,
) -> int:
    """Turn the runs' records into scaling tables: time, throughput, speed-up, efficiency, each with its interval.

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
    return 0 if results.complete else 1
