"""Refuse, by name, every value that could become something else in a script.

Quoting is the templates' business (render.py); this is the gate before it: control characters have no place in any
value, a directive's value is a word, and a path may hold anything printable that neither Slurm nor srun gives a
meaning to.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from hpcpar.errors import Problem

_WORD = re.compile(r"[A-Za-z0-9._@+:,/=&|*!()\[\]~^-]*", re.ASCII)
_OPTION = re.compile(r"--[A-Za-z0-9][A-Za-z0-9-]*|-[A-Za-z]", re.ASCII)
_OWNED = re.compile(r"HPCPAR_.*|SUBMITIT_.*|SLURM_(?:JOB_ID|JOBID|ARRAY_.*|RESTART_COUNT)")
"""What the job scripts read; the scheduler or hpcpar sets it. To bash an array index is arithmetic, that is, code."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def control_character(text: str) -> str | None:
    """Name the first character of `text` that no script may hold, or None.

    Control characters, line and paragraph separators, and bytes that were not UTF-8.
    """
    for char in text:
        category = unicodedata.category(char)
        if category == "Cs":
            return "a byte that is not UTF-8"
        if category in ("Cc", "Zl", "Zp"):
            names = {"\n": "a newline", "\r": "a carriage return", "\0": "a NUL", "\t": "a tab", "\x1b": "an escape"}
            return names.get(char, f"the control character U+{ord(char):04X}")
    return None


def value_problems(value: Any, where: str) -> Iterator[Problem]:
    """Yield a problem for every text inside `value` (struct, table, list, text) that holds a control character."""
    if isinstance(value, msgspec.Struct):
        value = {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, str):
        found = control_character(value)
        if found:
            yield Problem(where, f"holds {found}: {value!a}", "such a value could become a command of the script")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from value_problems(str(key), f"{where}: a key")
            yield from value_problems(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from value_problems(item, f"{where}[{i}]")


def word_problems(words: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem for every named value that must be a plain word (account, partition, ...) and is not."""
    for where, word in words.items():
        if not _WORD.fullmatch(word) or word.startswith("-"):
            yield Problem(where, f"{word!a} is not a word that Slurm takes", "letters, digits and ._@+:,/=&|-")


def path_problems(paths: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem for every named path that cannot stand in a script."""
    for where, path in paths.items():
        found = control_character(path)
        if found:
            yield Problem(where, f"the path holds {found}: {path!a}", "choose another folder")
        elif "\\" in path:
            yield Problem(
                where, f"the path holds a backslash: {path}", "srun reads it as a switch; choose another folder"
            )
        elif "%%" in path:  # seen on Slurm 22.05: srun's own escape for it, four signs, starts no step
            yield Problem(where, f"the path holds two percent signs in a row: {path}", "srun cannot write there")
        elif path.startswith("-"):
            yield Problem(
                where, f"the path begins with a dash: {path}", "it would be read as an option: write ./ first"
            )


def option_problems(options: Sequence[str], where: str) -> Iterator[Problem]:
    """Yield a problem for every item that is not one option: sbatch or srun would take it for a command or for two."""
    for i, option in enumerate(options):
        if not _OPTION.fullmatch(option.partition("=")[0]):
            yield Problem(f"{where}[{i}]", f"{option!a} is not an option", "one a string: --name or --name=value")


def variable_problems(variables: Mapping[str, str], where: str) -> Iterator[Problem]:
    """Yield a problem for every name that no environment variable has, or that is not the profile's to set."""
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            yield Problem(f"{where}.{name!a}", "is not the name of an environment variable")
        elif _OWNED.fullmatch(name):
            yield Problem(f"{where}.{name}", "is set by the scheduler or by hpcpar itself", "leave it out")
