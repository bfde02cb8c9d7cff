"""Columns of Parquet files: one file, or a folder of them in sorted order. Light at import; needs the extra parquet."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcpar.errors import MissingExtraError, Problem, RunError, install_line
from hpcpar.records import Cause
from hpcpar.storage import expand_home

SUFFIX = ".parquet"


def files(text: str) -> list[Path]:
    """Return the Parquet files that a data.path names; [] where it names something else."""
    path = expand_home(text)
    if path.suffix == SUFFIX and path.is_file():
        return [path]
    return sorted(path.glob(f"*{SUFFIX}")) if text and path.is_dir() else []


def check(found: Sequence[Path], key: str, *choices: Sequence[str]) -> list[Problem]:
    """Say that the files have none of these sets of columns, as far as this machine can read them.

    Args:
        found: the files; not empty.
        key: where they were named.
        choices: sets of columns; one of them must be there.
    """
    if importlib.util.find_spec("pyarrow") is None:
        return [Problem(key, "reading Parquet needs pyarrow", install_line("parquet"))]
    problems = []
    for path in found:
        try:
            names = _schema(path)
        except (OSError, ValueError) as error:
            problems.append(Problem(key, f"cannot read {path}: {_first_line(error)}", "is it Parquet?"))
            continue
        if not any(set(choice) <= set(names) for choice in choices):
            wanted = ", or ".join(" and ".join(f"'{name}'" for name in choice) for choice in choices)
            problems.append(Problem(key, f"{path} has the columns {', '.join(names)}", f"it needs {wanted}"))
    return problems


def choose(found: Sequence[Path], *choices: Sequence[str]) -> Sequence[str]:
    """Return the first set of columns that all files have.

    Raises:
        RunError: there is none (a cause data).
    """
    each = [set(names(path)) for path in found]
    chosen = next((choice for choice in choices if all(set(choice) <= known for known in each)), None)
    if chosen is None:
        raise RunError(Cause.DATA, f"{found[0]}: {', '.join(names(found[0]))} are not the columns that are needed")
    return chosen


def names(path: Path) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        RunError: it cannot be read (a cause data).
        MissingExtraError: pyarrow is not installed.
    """
    try:
        return _schema(path)
    except (OSError, ValueError) as error:
        raise RunError(Cause.DATA, f"cannot read {path}: {_first_line(error)}") from error


def read(found: Sequence[Path], wanted: Sequence[str]) -> dict[str, Any]:
    """Return columns as pyarrow arrays of one chunk, by name, of all files one after the other.

    Raises:
        RunError: they cannot be read, or are of different types (a cause data).
        MissingExtraError: pyarrow is not installed.
    """
    parquet, pyarrow = _library(found[0]), importlib.import_module("pyarrow")
    try:
        table = pyarrow.concat_tables(parquet.read_table(path, columns=list(wanted)) for path in found)
        columns = {name: table.column(name).combine_chunks() for name in wanted}
    except (OSError, ValueError, KeyError) as error:
        raise RunError(Cause.DATA, f"cannot read {found[0]}: {_first_line(error)}") from error
    for name, column in columns.items():
        if column.null_count:
            raise RunError(Cause.DATA, f"{found[0]}: {column.null_count} rows have no '{name}'")
    return columns


def _schema(path: Path) -> list[str]:
    return list(_library(path).read_schema(path).names)


def _library(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet", f"data.path '{path}'") from error
    return parquet


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
