"""A click command whose options may take several words: `--nodes 1 2 4`. click itself wants the flag each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

_PROGRAM = "hpcpar.program"


def after_dashes(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words after `--`, as they stand; for the callback of an argument.

    Raises:
        click.UsageError: there are words that belong to nothing.
    """
    if value:
        raise click.UsageError(f"Got unexpected extra argument ({' '.join(value)})", ctx)
    return program_of(ctx)


def program_of(ctx: click.Context) -> tuple[str, ...]:
    """Return the words after `--`, as they stand."""
    words: tuple[str, ...] = ctx.meta.get(_PROGRAM, ())
    return words


class VariadicCommand(click.Command):
    """`variadic` maps a flag to the test for the words that it may take after the first.

    Words that fail the test end the list, so that a study's file may follow: `--strategy ddp pp jobs/study.toml`.
    """

    def __init__(self, *args: Any, variadic: Mapping[str, Callable[[str], bool]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._variadic = variadic

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the flag before each further word, then let click parse; what follows `--` is kept word by word."""
        if "--" in args:
            place = args.index("--")
            args, ctx.meta[_PROGRAM] = args[:place], tuple(args[place + 1 :])
        return super().parse_args(ctx, self._spelled_out(args))

    def _spelled_out(self, args: list[str]) -> list[str]:
        spelled: list[str] = []
        flag, taken = "", 0
        for i, word in enumerate(args):
            if word == "--":
                return [*spelled, *args[i:]]
            if word in self._variadic:
                flag, taken = word, 0
            elif flag and word.startswith("-"):
                flag = ""
            elif flag:
                taken += 1
                if taken > 1 and self._variadic[flag](word):
                    spelled.append(flag)
                elif taken > 1:
                    flag = ""
            spelled.append(word)
        return spelled
