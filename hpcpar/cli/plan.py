"""hpcpar plan."""

from __future__ import annotations

from typing import Any

import click

from hpcpar import __version__
from hpcpar.cli import submit
from hpcpar.cli.study import read_profile, read_study
from hpcpar.cli.variadic import VariadicCommand, program_of

_EPILOG = """
\b
Examples:
  hpcpar plan --cluster perlmutter --workload llama-7b --nodes 1 2 4 8 16
  hpcpar plan --cluster lumi --workload llama-1b --strategy fsdp tp --nodes 1 2 --option precision=bf16
  hpcpar plan jobs/strong-hybrid.toml --cluster lumi --budget 20
"""
_NOT_HERE = {
    "again",
    "no_gate",
    "no_snapshot",
    "predict",
    "force",
    "dry_run",
    "wait",
    "as_json",
    "program",
    "checkpoint_every",
    "yes",
}
"""What only a submit has."""


def _shared() -> list[click.Parameter]:
    return [param for param in submit.command.params if param.name not in _NOT_HERE]


def _refuse_program(study_file: str | None, workload: str | None) -> None:
    """Refuse a program of the user's own on the command line: nothing says what it computes.

    Raises:
        click.UsageError: there is one.
    """
    ctx = click.get_current_context()
    if program_of(ctx) or (study_file is None and workload == "script"):
        what = "a program of your own cannot be forecast: nothing says what it computes"
        raise click.UsageError(f"{what}. `hpcpar submit --dry-run` shows its job, `--budget` holds its cost", ctx)


@click.option(
    "--critical-batch",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SAMPLES",
    help="Where learning needs twice the samples: say what larger batches are worth.",
)
@click.option("--balance", is_flag=True, help="Run the profile's own command for what is left of the allocation.")
@click.option("--all", "everything", is_flag=True, help="Print every mesh, not the best of each strategy and size.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def _plan(study_file: str | None, **flags: Any) -> int:
    """Say of every strategy and mesh whether it fits, how long it takes and what it costs; the best first.

    STUDY is a TOML file, or the flags: those of `hpcpar submit`. Without a strategy, all that can run the workload are
    looked at, and hybrid meshes. Nothing is submitted and nothing is written but what was read off the model, which
    the next plan need not read again. How: docs/plan.md.
    """
    from hpcpar.cli.plan_table import print_forecast
    from hpcpar.control.forecast.allocation import ask_balance
    from hpcpar.control.forecast.explore import with_all_strategies
    from hpcpar.control.forecast.forecast import forecast
    from hpcpar.control.forecast.spend import check_budget
    from hpcpar.control.forecast.summary import sum_up
    from hpcpar.runs import find_studies, runs_root
    from hpcpar.storage import is_folder

    _refuse_program(study_file, flags["workload"])
    flags = {**dict.fromkeys(_NOT_HERE), "program": (), **flags}
    study, where = read_study(study_file, flags)
    profile, _ = read_profile(study, where)
    open_choice = study_file is None and not flags["strategies"] and flags["mesh"] is None
    if open_choice:
        study = with_all_strategies(study, profile, where)
    root = runs_root(flags["runs_dir"], profile.runs_root)
    studies = find_studies(root) if is_folder(root) else []
    balance = ask_balance(profile) if flags["balance"] else None
    found = forecast(study, profile, where, studies=studies, version=__version__)
    summed = sum_up(found, critical_batch=flags["critical_batch"], balance=balance, open_choice=open_choice)
    if flags["as_json"]:
        from hpcpar.cli.output import print_json

        print_json({**{name: getattr(found, name) for name in found.__struct_fields__}, "summary": summed})
    else:
        print_forecast(found, summed, everything=flags["everything"] or not open_choice)
    if flags["budget"] is not None:
        check_budget(found, studies, profile, flags["budget"], open_choice=open_choice)
    return 0 if any(row.fits in {"yes", "tight", "unknown"} for row in found.rows) else 1


command = VariadicCommand(
    "plan",
    callback=_plan,
    params=[*_shared(), *getattr(_plan, "__click_params__", [])[::-1]],
    variadic={"--nodes": str.isdigit, "--strategy": submit.is_strategy},
    epilog=_EPILOG,
    help=_plan.__doc__,
)
