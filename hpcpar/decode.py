"""TOML and flags to typed structs, with every problem at once.

msgspec stops at the first mistake; a person who corrects a file wants all of them, each with its file and key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from hpcpar.errors import InputError, Problem, nearest

T = TypeVar("T", bound=msgspec.Struct)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: it cannot be read, is not UTF-8, or is not TOML; with the line of the mistake.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(Problem(str(path), f"cannot read: {error.strerror}")) from error
    except UnicodeDecodeError as error:
        raise InputError(Problem(str(path), f"is not UTF-8 (byte {error.start})")) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(Problem(str(path), f"is not TOML: {error}")) from error


def decode(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build a struct out of plain data; `where` names the file or the flags in messages.

    Raises:
        InputError: with one problem for every unknown, missing or mistyped key.
    """
    problems = list(find_problems(cls, data, where))
    if problems:
        raise InputError(problems)
    return _convert(cls, data)


def _convert(cls: Any, value: Any) -> Any:
    # strict=False would turn "4" into 4 and 1 into True; a file must say what it means.
    return msgspec.convert(value, cls, strict=True)


def find_problems(cls: Any, data: Any, where: str, prefix: str = "") -> list[Problem]:
    """List every problem of `data` as a `cls`, without building it."""
    if not isinstance(data, Mapping):
        return [Problem(_at(where, prefix), f"expected a table, got {_kind(data)}")]
    fields = {field.encode_name: field for field in msgspec.structs.fields(cls)}
    problems = [
        Problem(_at(where, prefix + str(key)), "unknown key", nearest(str(key), fields))
        for key in data
        if key not in fields
    ]
    before = len(problems)
    for name, field in fields.items():
        if name in data:
            problems += _field_problems(field.type, data[name], where, prefix + name)
        elif field.required:
            problems.append(Problem(_at(where, prefix + name), "is missing"))
    if len(problems) == before == 0:  # what is left are the checks of the struct itself (__post_init__)
        try:
            _convert(cls, data)
        except msgspec.ValidationError as error:
            problems.append(Problem(_at(where, prefix.rstrip(".")), _message(error)))
    return problems


def _field_problems(kind: Any, value: Any, where: str, key: str) -> list[Problem]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, Mapping):
        return find_problems(kind, value, where, key + ".")
    inner = _struct_inside(kind)
    if inner is not None and isinstance(value, Mapping) and get_origin(kind) is dict:
        return [p for name, item in value.items() for p in find_problems(inner, item, where, f"{key}.{name}.")]
    if inner is not None and isinstance(value, list):
        return [
            p
            for i, item in enumerate(value)
            if isinstance(item, Mapping)
            for p in find_problems(inner, item, where, f"{key}[{i}].")
        ] or _plain_problem(kind, value, where, key)
    return _plain_problem(kind, value, where, key)


def _plain_problem(kind: Any, value: Any, where: str, key: str) -> list[Problem]:
    try:
        _convert(kind, value)
    except msgspec.ValidationError as error:
        return [Problem(_at(where, key), _message(error))]
    return []


def _struct_inside(kind: Any) -> Any:
    for argument in get_args(kind):
        if isinstance(argument, type) and issubclass(argument, msgspec.Struct):
            return argument
    return None


def _message(error: msgspec.ValidationError) -> str:
    text, _, path = str(error).partition(" - at ")
    text = text.replace("`", "").replace("null", "nothing")
    inside = path.strip().strip("`").removeprefix("$")
    return f"{text} (at {inside})" if inside else text


def _kind(value: Any) -> str:
    return {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}.get(
        type(value), type(value).__name__
    )


def _at(where: str, key: str) -> str:
    return f"{where}: {key}" if key else where


def nested(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Turn {"data.path": "x", "lr": "0.1"} into {"data": {"path": "x"}, "lr": 0.1}: what `--set` and `--option` mean.

    A value is read as TOML where it is TOML (numbers, true, lists), else as plain text.
    """
    tree: dict[str, Any] = {}
    for dotted, text in pairs.items():
        *parents, leaf = dotted.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = _scalar(text)
    return tree


def _scalar(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (tomllib.TOMLDecodeError, KeyError):
        return text
