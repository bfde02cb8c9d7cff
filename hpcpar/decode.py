"""TOML and flags to typed structs, with every problem at once.

msgspec stops at the first mistake; a person who corrects a file wants all of them, each with its file and key.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, time
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from hpcpar.errors import InputError, Problem, nearest

_UNKNOWN_SHOWN = 20
"""Unknown keys told one by one: whoever names the wrong file need not read all of it."""
T = TypeVar("T", bound=msgspec.Struct)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: it cannot be read, is not UTF-8, or is not TOML; with the line of the mistake.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte-order mark
    except OSError as error:
        raise InputError(Problem(str(path), f"cannot read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise InputError(Problem(str(path), f"is not UTF-8 (byte {error.start})")) from error
    return parse_toml(text, str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        InputError: it is not TOML; with the line of the mistake.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib's own error, a number of 5000 digits, 2000 open brackets
        raise InputError(Problem(where, f"is not TOML: {error}")) from error


def decode(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build a struct out of plain data; `where` names the file or the flags in messages.

    Raises:
        InputError: with one problem for every unknown, missing or mistyped key.
    """
    problems = list(find_problems(cls, data, where))
    if problems:
        raise InputError(problems)
    return _convert(cls, data)  # type: ignore[no-any-return]


def _convert(kind: Any, value: Any) -> Any:
    # strict=False would turn "4" into 4 and 1 into True; a file must say what it means.
    return msgspec.convert(value, kind, strict=True)


def find_problems(cls: Any, data: Any, where: str, prefix: str = "") -> list[Problem]:
    """List every problem of `data` as a `cls`, without building it."""
    if not isinstance(data, Mapping):
        return [Problem(_at(where, prefix.rstrip(".")), f"must be a table, not {_kind(data)}")]
    fields = {field.encode_name: field for field in msgspec.structs.fields(cls)}
    unknown = [
        Problem(_at(where, prefix + str(key)), "unknown key", nearest(str(key), fields))
        for key in islice((key for key in data if key not in fields), _UNKNOWN_SHOWN)
    ]
    more = sum(key not in fields for key in data) - _UNKNOWN_SHOWN
    if more > 0:
        unknown.append(Problem(_at(where, prefix.rstrip(".")), f"{more} more unknown keys", "is this the right file?"))
    problems = []
    for name, field in fields.items():
        if name in data:
            problems += _value_problems(field.type, data[name], where, prefix + name)
        elif field.required:
            problems.append(Problem(_at(where, prefix + name), "is missing"))
    if not problems:  # the fields are right one by one; what is left is how they fit together (__post_init__)
        known = {key: value for key, value in data.items() if key in fields}
        problems = _plain_problem(cls, known, where, prefix.rstrip("."))
    return unknown + problems


def _value_problems(kind: Any, value: Any, where: str, key: str) -> list[Problem]:
    """List the problems inside tables and lists one by one, then what is wrong with the value as a whole."""
    problems: list[Problem] = []
    if float in _options(kind) and isinstance(value, float) and not math.isfinite(value):
        return [Problem(_at(where, key), f"must be a finite number, not {value}")]  # a record of it would hold null
    for option in _options(kind):
        if isinstance(value, Mapping) and _is_struct(option):
            return find_problems(option, value, where, key + ".")
        arguments = get_args(option)
        if isinstance(value, Mapping) and get_origin(option) is dict:
            for name, item in value.items():
                problems += _value_problems(arguments[1], item, where, f"{key}.{name}")
        elif isinstance(value, list | tuple) and get_origin(option) in (list, tuple) and arguments[1:] in ((), (...,)):
            for i, item in enumerate(value):
                problems += _value_problems(arguments[0], item, where, f"{key}[{i}]")
    return problems or _plain_problem(kind, value, where, key)


def _options(kind: Any) -> Iterator[Any]:
    """Yield the types that `kind` stands for: the members of a union, without Annotated around them."""
    if get_origin(kind) is Annotated:
        yield from _options(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from _options(member)
    else:
        yield kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _plain_problem(kind: Any, value: Any, where: str, key: str) -> list[Problem]:
    try:
        _convert(kind, value)
    except msgspec.ValidationError as error:
        return [Problem(_at(where, key), *_explain(error, kind, value))]
    except UnicodeEncodeError:
        return [Problem(_at(where, key), "holds a character that is not Unicode text (a lone surrogate)")]
    return []


def _explain(error: msgspec.ValidationError, kind: Any, value: Any) -> tuple[str, str]:
    """Return what is wrong and what would be right."""
    options = list(_options(kind))
    allowed = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    if allowed and isinstance(value, str) and all(isinstance(choice, str) for choice in allowed):
        return f"'{value}' is not allowed", nearest(value, allowed)
    if allowed:
        newer = "a file of a newer hpcpar? " if isinstance(value, int) and isinstance(allowed[0], int) else ""
        return f"{_shown(value)} is not allowed", f"{newer}one of: {', '.join(str(choice) for choice in allowed)}"
    if str in options and isinstance(value, date | time):
        return f"must be text, not {_kind(value)}", f'write it in quotes: "{value}"'
    return _message(error, value), ""


def _message(error: msgspec.ValidationError, value: Any) -> str:
    text, _, path = str(error).partition(" - at ")
    if text.startswith("Expected "):  # msgspec's words; the checks of our structs are sentences already
        text = "must be " + _TYPE_NAME.sub(lambda match: _TYPE_WORDS[match.group()], text.removeprefix("Expected "))
        text = text.replace(" | null", "").replace(" | ", " or ").replace("`", "").replace(", got ", ", not ")
        if isinstance(value, int | float) and ", not " not in text:
            text += f", not {value}"
    inside = path.strip().strip("`").removeprefix("$")
    return f"{text} (at {inside})" if inside else text


_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
_TYPE_NAME = re.compile(rf"\b({'|'.join(_TYPE_WORDS)})\b")


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return names.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, int | float) else _kind(value)


def _at(where: str, key: str) -> str:
    return f"{where}: {key}" if key else where


def nested(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Turn {"data.path": "x", "lr": "0.1"} into {"data": {"path": "x"}, "lr": 0.1}: what `--set` and `--option` mean.

    A value is read as TOML where it is TOML (numbers, true, lists), else as plain text.

    Raises:
        InputError: a key has an empty part, or is given as a value and as a table.
    """
    tree: dict[str, Any] = {}
    problems = []
    for dotted, text in pairs.items():
        *parents, leaf = dotted.split(".")
        if not all([*parents, leaf]):
            problems.append(Problem(dotted or "''", "is not a key", "write KEY=VALUE or TABLE.KEY=VALUE"))
            continue
        branch: Any = tree
        for parent in parents:
            branch = branch.setdefault(parent, {}) if isinstance(branch, dict) else None
        if not isinstance(branch, dict) or leaf in branch:
            problems.append(Problem(dotted, "is given as a value and as a table"))
            continue
        branch[leaf] = _scalar(text)
    if problems:
        raise InputError(problems)
    return tree


def _scalar(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"] if "\n" not in text and "#" not in text else text
    except (ValueError, RecursionError):
        return text
    # No option is a date; what looks like one is a name.
    return text if isinstance(value, date | time) else value
