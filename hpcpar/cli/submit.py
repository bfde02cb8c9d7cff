"""hpcpar submit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hpcpar import __version__, assets
from hpcpar.cli.output import warn
from hpcpar.cli.study import read_profile, read_study, short
from hpcpar.cli.variadic import VariadicCommand, after_dashes
from hpcpar.errors import InputError, Problem

_EPILOG = """
\b
Examples:
  hpcpar submit --cluster local --strategy ddp --nodes 1 2 --repeats 3 --wait
  hpcpar submit --cluster perlmutter --strategy hybrid --mesh pp=2,dp=-1 --nodes 4 --dry-run
  hpcpar submit jobs/quickstart.toml --cluster local
  hpcpar submit --cluster local --nodes 1 2 -- ./train --batch {micro_batch}
  hpcpar submit --cluster local --workload llama-tiny --set data.path=corpus.txt --strategy ddp pp --nodes 1 2 4
"""


def _complete(kind: str) -> Any:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from hpcpar import registry

        found = registry.names(kind) if kind in ("strategy", "workload") else assets.available(kind)  # type: ignore[arg-type]
        return [name for name in found if name.startswith(incomplete)]

    return complete


def is_strategy(word: str) -> bool:
    """Tell a further strategy from a study's file: any plain word may be a strategy, of others only those known."""
    from hpcpar.registry import STRATEGIES

    return word.isidentifier() or word in STRATEGIES


@click.command(cls=VariadicCommand, variadic={"--nodes": str.isdigit, "--strategy": is_strategy}, epilog=_EPILOG)
@click.argument("study_file", metavar="[STUDY]", required=False, shell_complete=_complete("jobs"))
@click.argument("program", metavar="[-- PROGRAM...]", nargs=-1, type=click.UNPROCESSED, callback=after_dashes)
@click.option(
    "--cluster",
    help="Cluster profile: a name (see `hpcpar list clusters`) or a file.",
    shell_complete=_complete("clusters"),
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME...",
    help="One or more strategies.",
    shell_complete=_complete("strategy"),
)
@click.option("--nodes", multiple=True, type=click.IntRange(min=1), metavar="N...", help="One or more node counts.")
@click.option(
    "--workload",
    help="What to compute: a name, or FILE.py:NAME (default: llama-tiny).",
    shell_complete=_complete("workload"),
)
@click.option("--repeats", type=click.IntRange(min=1, max=1000), help="Repeats of every cell; an interval needs 3.")
@click.option("--scaling", type=click.Choice(["strong", "weak"]), help="Keep the global batch, or the batch a rank.")
@click.option("--global-batch", type=click.IntRange(min=1), help="Samples an update, at the smallest size.")
@click.option("--micro-batch", type=click.IntRange(min=1), help="Samples a rank and forward pass.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer updates of a run.")
@click.option(
    "--warmup-steps", type=click.IntRange(min=0), help="Updates left out (default: until steady, at least 10)."
)
@click.option("--quick", is_flag=True, default=None, help="A look: at most 30 updates, one repeat; tables say so.")
@click.option(
    "--diagnose-steps",
    type=click.IntRange(min=0, max=1000),
    metavar="N",
    help="Steps after the training that measure exposed communication and the gradient noise scale (default: 0).",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**31 - 1), help="Seed of weights and order of data.")
@click.option("--mesh", help="Mesh of strategy hybrid, e.g. pp=2,dp=-1 (-1 fills).")
@click.option(
    "--set",
    "workload_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the workload, e.g. data.path=x.txt.",
)
@click.option("--option", "strategy_options", multiple=True, metavar="KEY=VALUE", help="Option of the strategies.")
@click.option("--node-type", help="Kind of node, where the cluster has several.")
@click.option("--ranks-per-node", type=click.IntRange(min=1), help="Ranks a node.")
@click.option("--cpus-per-rank", type=click.IntRange(min=1), help="CPUs a rank; constant over a study.")
@click.option("--time", metavar="DURATION", help="Time limit of a job, e.g. 30m or 00:30:00.")
@click.option("--memory", metavar="SIZE", help="Memory a node, e.g. 64GiB.")
@click.option("--account", help="Account to charge.")
@click.option("--qos", help="Quality of service.")
@click.option("--partition", help="Partition.")
@click.option("--constraint", help="Node features.")
@click.option("--python", metavar="PATH", help="The interpreter on the nodes (default: this one).")
@click.option(
    "--checkpoint-every", type=click.IntRange(min=1), metavar="STEPS", help="Save every so many updates, to go on from."
)
@click.option(
    "--paired",
    is_flag=True,
    default=None,
    help="Let runs of one size and repeat share a job: the same nodes, one after the other, in an order that is drawn.",
)
@click.option(
    "--max-queued",
    type=click.IntRange(min=1),
    metavar="JOBS",
    help="Keep to so many jobs in the queue; `hpcpar status` sends more when there is room.",
)
@click.option("--name", help="Name of the study; runs of the same name are one study.")
@click.option(
    "--runs", "runs_dir", metavar="DIR", default="", help="Where run folders are kept (default: HPCPAR_RUNS, ./runs)."
)
@click.option(
    "--predict/--no-predict",
    default=None,
    envvar="HPCPAR_PREDICT",
    help="Foresee memory and time first, as `hpcpar plan` does (default: where plan has looked at the model before).",
)
@click.option("--budget", type=click.FloatRange(min=0), metavar="UNITS", help="Refuse what may cost more (worst case).")
@click.option("--yes", is_flag=True, help="Do not ask, whatever it costs (allocation.ask_above of the profile).")
@click.option("--force", is_flag=True, help="Submit also what will not fit into memory.")
@click.option("--again", is_flag=True, help="Run what is complete once more.")
@click.option("--no-gate", is_flag=True, help="Send it unchecked (see `hpcpar doctor`); the submission says so.")
@click.option("--no-snapshot", is_flag=True, help="Run your own files as they are when the job starts, not as now.")
@click.option("--dry-run", is_flag=True, help="Print the exact scripts; submit nothing.")
@click.option("--wait", is_flag=True, help="Stay until every run has ended, and show the progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(study_file: str | None, program: tuple[str, ...], **flags: Any) -> int:
    """Plan STUDY (a TOML file, see `hpcpar list jobs`, or the flags) and submit it.

    PROGRAM is a command line of your own, which is started on every rank.

    Flags override the file. What is complete or under way is not submitted again, so a study can be extended: more
    nodes, more repeats.
    """
    from hpcpar import records
    from hpcpar.control import submit

    request, profile_path = request_of(study_file, program, flags)
    with records.without_collections():
        prepared = submit.prepare(request)
    for problem in prepared.plan.warnings:
        warn(str(problem))
    for text in prepared.trouble:
        warn(text)
    if flags["dry_run"]:
        for problem in over_budget(prepared, flags["budget"]):
            warn(str(problem))
        return _show(prepared, profile_path, as_json=flags["as_json"])
    _refuse_or_ask(prepared, flags)
    with records.without_collections():
        job_ids = submit.submit(prepared, lambda problem: warn(str(problem)))
    return _answer(prepared, job_ids, flags)


def _refuse_or_ask(prepared: Any, flags: dict[str, Any]) -> None:
    """Look at the price of what is to be sent.

    Raises:
        InputError: it may exceed the budget, or nobody is there to be asked.
    """
    if problems := over_budget(prepared, flags["budget"]):
        raise InputError(problems)
    profile = prepared.request.profile
    if flags["yes"] or not prepared.batches or profile.allocation.ask_above is None:
        return
    from hpcpar.control.forecast import spend

    question = spend.to_ask(_at_worst(prepared), profile)
    if not question:
        return
    if not sys.stdin.isatty():
        raise InputError(Problem(f"cluster {profile.name}", question, "--yes to send it without being asked"))
    click.confirm(f"{question}: send it?", abort=True, err=True)


def over_budget(prepared: Any, budget: float | None) -> tuple[Problem, ...]:
    """Say by how much what is to be sent may exceed a budget; nothing where it cannot, or where there is none."""
    if budget is None:
        return ()
    from hpcpar.control.forecast import spend
    from hpcpar.runs import find_studies
    from hpcpar.storage import is_folder

    root = prepared.request.root
    studies = find_studies(root) if is_folder(root) else []
    try:
        spend.refuse_above(_at_worst(prepared), budget, studies, prepared.request.profile)
    except InputError as error:
        return error.problems
    return ()


def _at_worst(prepared: Any) -> Any:
    from hpcpar.control.forecast import spend

    runs = (run for batch in prepared.batches for run in batch.runs)
    return spend.at_worst(runs, prepared.request.profile)


def request_of(study_file: str | None, program: tuple[str, ...], flags: dict[str, Any]) -> tuple[Any, Path]:
    """Read the files and merge the flags; return the control wing's Request and the profile's file.

    Raises:
        InputError: with every problem of names and keys.
    """
    from hpcpar.control import submit
    from hpcpar.control.plan import study_problems
    from hpcpar.runs import runs_root

    flags["program"] = program
    study, where = read_study(study_file, flags)
    try:
        profile, profile_path = read_profile(study, where)
    except InputError as error:  # a person who mistyped two names wants to hear of both
        raise InputError([*error.problems, *study_problems(study, where)]) from error
    request = submit.Request(
        study=study,
        profile=profile,
        where=where,
        root=runs_root(flags["runs_dir"], profile.runs_root),
        version=__version__,
        again=flags["again"],
        no_gate=flags["no_gate"],
        no_snapshot=flags["no_snapshot"],
        predict=flags["predict"],
        force=flags["force"],
    )
    return request, profile_path


def _show(prepared: Any, profile_path: Path, *, as_json: bool) -> int:
    """Print what would be submitted: the scripts to stdout, which files won to stderr."""
    if as_json:
        from hpcpar.cli.output import print_json

        print_json(
            {
                "profile": str(profile_path),
                "study_folder": str(prepared.study.path),
                "skipped": prepared.skipped,
                "warnings": [str(problem) for problem in prepared.plan.warnings],
                "batches": [
                    {
                        "script": batch.script.text,
                        "template": batch.script.template,
                        **({"worker_script": batch.worker_script.text} if batch.worker_script else {}),
                        "runs": [run.spec for run in batch.runs],
                    }
                    for batch in prepared.batches
                ],
            }
        )
        return 0
    click.echo(f"cluster profile: {profile_path}", err=True)
    for template in dict.fromkeys(batch.script.template for batch in prepared.batches):
        click.echo(f"job template:    {template}", err=True)
    click.echo(f"runs folder:     {prepared.study.path}", err=True)
    click.echo(_summary(prepared, "would be submitted"), err=True)
    for i, batch in enumerate(prepared.batches, 1):
        if len(prepared.batches) > 1:
            click.echo(f"# ======== batch {i} of {len(prepared.batches)}: {batch.folder.script_path}")
        click.echo(batch.script.text, nl=False)
        if batch.worker_script is not None:
            click.echo(f"# ======== for the workers of each run: {batch.folder.worker_script_path}")
            click.echo(batch.worker_script.text, nl=False)
    return 0


def _summary(prepared: Any, verb: str) -> str:
    runs = sum(len(batch.runs) for batch in prepared.batches)
    arrays = len(prepared.batches)
    text = f"{runs} run{'s' * (runs != 1)} in {arrays} batch{'es' * (arrays != 1)} {verb}"
    left_out = ", ".join(f"{count} {state}" for state, count in prepared.skipped.items())
    if prepared.held:
        text += f"; {len(prepared.held)} wait for room in the queue, `hpcpar status` sends them"
    hint = " (--again runs what is done once more)" if "done" in prepared.skipped else ""
    return text + (f"; left out: {left_out}{hint}" if left_out else "")


def _answer(prepared: Any, job_ids: list[str], flags: dict[str, Any]) -> int:
    if flags["as_json"] and not flags["wait"]:
        from hpcpar.cli.output import print_json

        print_json(
            {
                "study_folder": str(prepared.study.path),
                "jobs": job_ids,
                "skipped": prepared.skipped,
                "held": len(prepared.held),
            }
        )
        return 0
    click.echo(_summary(prepared, "submitted"), err=True)
    for job_id, batch in zip(job_ids, prepared.batches, strict=True):
        each = len(batch.runs) // len(batch.jobs)
        shared = f" ({each} runs each)" if batch.resources.run_time_s else ""
        click.echo(f"  {job_id}: {len(batch.jobs)} x {_shape(batch.resources)}{shared}", err=True)
    if flags["wait"]:
        from hpcpar.cli.status import wait_for

        return wait_for([prepared.study], as_json=flags["as_json"])
    click.echo(f"next: hpcpar status {short(prepared.study.path)}", err=True)
    return 0


def _shape(resources: Any) -> str:
    nodes, ranks = resources.nodes, resources.ranks_per_node
    return f"{nodes} node{'s' * (nodes > 1)} x {ranks} rank{'s' * (ranks > 1)}"
