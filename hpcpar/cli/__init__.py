"""The command line: parse, one call, print, exit code. Each verb is a module that is imported when it is asked for.

Results go to stdout, talk goes to stderr. Exit codes: 0 done, 1 something failed or is missing, 2 bad input,
130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from hpcpar.errors import HpcparError, InputError

VERBS = {
    "plan": "Say before anything is submitted: does it fit, how long, what does it cost.",
    "submit": "Plan a study and submit it.",
    "doctor": "Say everything that is wrong with a submission before it is sent.",
    "status": "Say what became of the runs, and why.",
    "logs": "Print what a run's ranks and its job script printed.",
    "resubmit": "Send failed runs again.",
    "rerun": "Run a run once more with the same bytes, or say what differs.",
    "clean": "Remove what is half-written or over.",
    "cancel": "Cancel runs that wait or run.",
    "collect": "Turn the runs' records into scaling tables.",
    "cluster": "Write a profile of this cluster, or compare one with it.",
    "data": "List and fetch real data sets, and say where they lie.",
    "list": "List clusters, strategies, workloads, jobs or templates.",
    "show": "Show a cluster profile, strategy, workload, study or template.",
    "resume": "Start this machine's local queue again after it died.",
    "completion": "Print the shell's completion script.",
}
"""Verb to its line in the help; the verb's module is imported only when it runs."""

_EPILOG = """
\b
Examples:
  hpcpar plan --cluster perlmutter --workload llama-7b --nodes 4 8 16
  hpcpar submit --cluster local --strategy ddp --nodes 1 2 --repeats 3 --wait
  hpcpar submit --cluster perlmutter --strategy hybrid --nodes 4 --dry-run
  hpcpar submit jobs/quickstart.toml --cluster local
  hpcpar status
  hpcpar collect
"""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = import_module(f"hpcpar.cli.{'list_' if cmd_name == 'list' else cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The help of the group must not import the verbs.
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from hpcpar.errors import nearest

            raise click.UsageError(f"no such command '{printable(args[0])}': {nearest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        import hpcpar

        click.echo(f"hpcpar {hpcpar.__version__}")
        ctx.exit()


@click.group(cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print it.")
def group() -> None:
    """Which parallel strategy, on how many nodes, at what price?

    hpcpar submits a workload under parallel strategies to a cluster (or runs it on this machine), watches it, and turns
    what the jobs recorded into scaling tables.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        os.getcwd()  # noqa: PTH109 - pathlib is not loaded yet, and the help is to be fast
    except OSError:
        click.echo("error: the current folder is gone: change to another one", err=True)
        return 2
    _replace_closed_streams()
    _escape_what_stdout_cannot_hold()
    try:
        code = group.main(args=list(argv) if argv is not None else None, prog_name="hpcpar", standalone_mode=False)
        sys.stdout.flush()  # here, where a full disk can still be told
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(printable(shown.getvalue()), nl=False, err=True)  # it quotes what was typed
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except InputError as error:
        _report(error)
        return error.exit_code
    except HpcparError as error:
        click.echo(f"error: {printable(str(error))}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # The reader has gone (`hpcpar status | head`): nobody is left to tell.
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            raise
        _drop_stdout()
        click.echo(f"error: cannot write the answer: {error.strerror}", err=True)
        return 1
    return code if isinstance(code, int) else 0


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def _replace_closed_streams() -> None:
    """Put the null device where the caller closed a stream: else the next file that is opened would take its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - it stays open, and pathlib is not loaded


def _escape_what_stdout_cannot_hold() -> None:
    """Let an old locale get a character that it does not know escaped, as stderr does, and no traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_stdout() -> None:
    """Let what stdout still holds go to the null device, or Python would complain once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _report(error: InputError) -> None:
    count = len(error.problems)
    for problem in error.problems:
        # A value from outside may hold anything; the terminal gets it escaped.
        click.echo(f"error: {printable(str(problem))}", err=True)
    if count > 1:
        click.echo(f"{count} problems; nothing was submitted", err=True)


def printable(text: str) -> str:
    """Escape what a terminal would obey or could not print; line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
