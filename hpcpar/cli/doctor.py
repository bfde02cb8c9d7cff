"""hpcpar doctor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from hpcpar.cli import printable
from hpcpar.cli import submit as submit_command
from hpcpar.cli.variadic import VariadicCommand
from hpcpar.errors import InputError

_EPILOG = """
\b
Examples:
  hpcpar doctor                                         this machine
  hpcpar doctor --cluster perlmutter                    a profile, with a small study on it
  hpcpar doctor quickstart --cluster mine --nodes 1 64  all that `submit` would say, and what it would only warn of
"""
_ONLY_SUBMIT = ("again", "no_gate", "force", "dry_run", "wait")
_PARAMS = [param for param in submit_command.command.params if param.name not in _ONLY_SUBMIT]


class _Line(NamedTuple):
    level: str
    check: str
    where: str
    what: str
    fix: str = ""


@click.command(
    cls=VariadicCommand,
    variadic={"--nodes": str.isdigit, "--strategy": submit_command.is_strategy},
    params=_PARAMS,
    epilog=_EPILOG,
)
def command(study_file: str | None, program: tuple[str, ...], **flags: Any) -> int:
    """Check STUDY, or the flags of `submit`, and say all that is wrong at once, with what to do.

    The same checks stand in front of every submit. Exit code 0: nothing would stop it. 1: something would.
    """
    if study_file is None and flags["cluster"] is None and shutil.which("sbatch") is None:
        flags["cluster"] = "local"
    as_json = flags["as_json"]
    request, _ = submit_command.request_of(study_file, program, {**flags, **dict.fromkeys(_ONLY_SUBMIT, False)})
    lines = list(_examine(request, flags["budget"]))
    if as_json:
        from hpcpar.cli.output import print_json

        print_json([line._asdict() for line in lines])
    else:
        _show(lines)
    return 1 if any(line.level == "error" for line in lines) else 0


def _examine(request: Any, budget: float | None) -> Iterator[_Line]:
    from hpcpar.control import gate, submit
    from hpcpar.control.gate.checks import Case
    from hpcpar.control.plan import Plan

    case = Case(Plan((), ()), request.profile, request.python, (), request.root)
    try:
        # What is done already is checked as well: a doctor is asked for the study, not for what is left of it.
        prepared = submit.prepare(request._replace(again=True))
        case = submit.case(prepared)
        runs, arrays = len(prepared.plan.runs), len(prepared.batches)
        yield _Line("ok", "plan", "", f"{runs} run{'s' * (runs != 1)} in {arrays} batch{'es' * (arrays != 1)}")
        for problem in prepared.plan.warnings:
            if not problem.where.startswith("cluster "):
                yield _Line("warning", "plan", *problem)
        yield from _budget(request, budget)
    except InputError as error:
        for problem in error.problems:
            yield _Line("error", "plan", *problem)
    for result in gate.examine(case):
        if not result.findings:
            yield _Line("ok", result.check.name, "", result.check.about)
        for finding in result.findings:
            yield _Line(finding.level, result.check.name, *finding.problem)


def _budget(request: Any, budget: float | None) -> Iterator[_Line]:
    """Hold against the budget what a submit would send: what is done already is in the ledger."""
    if budget is None:
        return
    from hpcpar.control import submit

    problems = submit_command.over_budget(submit.prepare(request), budget)
    yield from (_Line("error", "budget", *problem) for problem in problems)
    if not problems:
        yield _Line("ok", "budget", "", f"the worst case is within --budget {budget:g}")


def _show(lines: list[_Line]) -> None:
    for line in lines:
        text = f"{line.where}: {line.what}" if line.where else line.what
        click.echo(f"{line.level:<9}  {line.check:<11}  {printable(text)}")
        if line.fix:
            click.echo(f"{'':<24}{printable(line.fix)}")
    counts = {level: sum(line.level == level for line in lines) for level in ("error", "warning", "unchecked")}
    names = {"error": "errors", "warning": "warnings", "unchecked": "unchecked"}
    click.echo(", ".join(f"{count} {names[level]}" for level, count in counts.items()), err=True)
