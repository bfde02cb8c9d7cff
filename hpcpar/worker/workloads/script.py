"""script: the user's own program, any command line, started on every rank as torchrun would start it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from hpcpar.errors import Problem, nearest
from hpcpar.registry import Declaration
from hpcpar.worker.program.words import BATCH, PLACEHOLDERS, placeholders


class ScriptOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is started."""

    command: tuple[str, ...] = ()
    """The program and its arguments, word by word; on the command line everything after `--`. `python` is the nodes'
    interpreter. {micro_batch} and the like become the numbers of the run."""
    reads_variables: bool = False
    """True promises that the program takes its batch and its steps from HPCPAR_GLOBAL_BATCH or HPCPAR_MICRO_BATCH, and
    HPCPAR_STEPS."""


class Script:
    """A program that knows nothing of hpcpar, or calls `hpcpar.log`."""

    name = "script"
    summary = "your own program, any command line, on every rank with torchrun's variables"
    extras = ("torch",)
    Options = ScriptOptions

    def declare(self, options: ScriptOptions) -> Declaration:
        """Describe the work as far as the command line tells."""
        used = placeholders(options.command)
        return Declaration(
            kind="program",
            declares_batch=bool(used & BATCH) or options.reads_variables,
            declares_steps="steps" in used or options.reads_variables,
            steps=100 if "steps" in used or options.reads_variables else 1,
        )

    def check(self, options: ScriptOptions) -> list[Problem]:
        """Say what is wrong with the command line: nothing there, an unknown placeholder, a script that is missing."""
        where = f"workload {self.name}: command"
        if not options.command or not options.command[0]:
            return [Problem(where, "is empty", "write it after --, e.g. -- python train.py --batch {micro_batch}")]
        problems = [_unknown(where, name) for name in sorted(placeholders(options.command) - set(PLACEHOLDERS))]
        script = _script(options.command)
        if script and not Path(script).is_file():
            problems.append(Problem(f"{where}: '{script}'", "there is no such file", "paths count from this folder"))
        return problems

    def load(self, options: ScriptOptions, seed: int) -> Any:
        """Return the options: strategy own starts the program."""
        return options


def _unknown(where: str, name: str) -> Problem:
    fix = f"{nearest(name, PLACEHOLDERS)}; {{{{{name}}}}} is text"
    return Problem(f"{where}: {{{name}}}", "is no placeholder", fix)


def _script(command: tuple[str, ...]) -> str:
    """Return the program's file where that is certain: the first word after `python` that ends in .py."""
    if not Path(command[0]).name.startswith("python"):
        return ""
    first = next((word for word in command[1:] if not word.startswith("-")), "")
    return first if first.endswith(".py") and not placeholders([first]) else ""


WORKLOAD = Script()
