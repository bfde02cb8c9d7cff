"""A table of the user's own: a Parquet or CSV file, of which a rank reads its rows only.

Legend: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from hpcpar.errors import MissingExtraError, Problem, RunError, nearest
from hpcpar.records import Cause
from hpcpar.storage import expand_home
from hpcpar.worker.data import places

if TYPE_CHECKING:
    import numpy as np

LIBSVM = (".libsvm", ".svm")
SUFFIXES = (".parquet", ".csv", *LIBSVM)


class TableOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which table."""

    path: str = ""
    """A .parquet or .csv file (numbers only; the CSV with a line of names), or a .libsvm or .svm file; "" takes the
    generated table."""
    label: str = ""
    """The column that is learnt; "" is the first one, as in HIGGS. A libsvm file has no names: its label is the first
    word of a line."""


def check(options: TableOptions, where: str) -> list[Problem]:
    """Say what is wrong with the file as far as its name tells."""
    if not options.path:
        return (
            [] if not options.label else [Problem(f"{where}: data.label", "needs data.path", "name the file as well")]
        )
    if denied := places.unreadable(options.path, f"{where}: data.path"):
        return denied
    path = expand_home(options.path)
    if path.suffix not in SUFFIXES:
        what = f"'{options.path}' is none of {', '.join(SUFFIXES)}"
        return [Problem(f"{where}: data.path", what, "convert it, e.g. with pyarrow or pandas")]
    if options.label and path.suffix in LIBSVM:
        return [Problem(f"{where}: data.label", "a libsvm file has no names of columns", "leave it out")]
    if not path.is_file():
        return [Problem(f"{where}: data.path", f"'{options.path}' is not a file", "name one table file")]
    return []


class UserTable:
    """Rows of a file, in its order."""

    def __init__(self, options: TableOptions) -> None:
        self._path, self._label = expand_home(options.path), options.label

    def fetch(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return features [N, F] and labels [N] of the rows begin to end - 1, in float32."""
        import numpy as np

        try:
            names, table = self._read(begin, end)
        except (OSError, ValueError) as error:
            raise RunError(Cause.DATA, f"cannot read {self._path}: {error}") from error
        if len(table) < end - begin:
            what = f"{self._path} has {begin + len(table)} rows, the run asks for row {end}"
            raise RunError(Cause.DATA, f"{what}: choose a smaller --global-batch (the rows of training)")
        place = self._place(names)
        return np.delete(table, place, axis=1), np.ascontiguousarray(table[:, place])

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""
        size = self._path.stat().st_size
        return {"name": str(self._path), "label": self._label, "num_bytes": size, "synthetic": False}

    def _place(self, names: list[str]) -> int:
        label = self._label or names[0]
        if label not in names:
            raise RunError(Cause.DATA, f"{self._path} has no column '{label}': {nearest(label, names)}")
        return names.index(label)

    def _read(self, begin: int, end: int) -> tuple[list[str], np.ndarray]:
        if self._path.suffix == ".parquet":
            return _parquet(self._path, begin, end)
        return _libsvm(self._path, begin, end) if self._path.suffix in LIBSVM else self._csv(begin, end)

    def _csv(self, begin: int, end: int) -> tuple[list[str], np.ndarray]:
        import numpy as np

        with self._path.open() as file:
            names = [name.strip().strip('"') for name in file.readline().split(",")]
            for _ in range(begin):
                file.readline()
            lines = [line for _, line in zip(range(end - begin), file, strict=False)]
        if not lines:
            return names, np.empty((0, len(names)), dtype=np.float32)
        return names, np.loadtxt(lines, delimiter=",", dtype=np.float32, ndmin=2)


def _libsvm(path: Path, begin: int, end: int) -> tuple[list[str], np.ndarray]:
    """Read lines of the form LABEL INDEX:VALUE ...; what a line does not name is missing (NaN), as in XGBoost.

    The whole file is looked through for its largest index, so that all ranks see the same number of features.
    """
    import numpy as np

    lines, last = [], 0
    with path.open() as file:
        for number, line in enumerate(words for raw in file if (words := raw.partition("#")[0].split())):
            last = max(last, *(int(word.partition(":")[0]) for word in line[-1:] if ":" in word), 0)
            if begin <= number < end:
                lines.append(line)
    table: np.ndarray = np.full((len(lines), last + 2), np.nan, dtype=np.float32)
    for row, words in enumerate(lines):
        table[row, 0] = float(words[0])
        pairs = [word.split(":") for word in words[1:]]
        if pairs:
            table[row, [int(index) + 1 for index, _ in pairs]] = [float(value) for _, value in pairs]
    return ["label", *(str(index) for index in range(last + 1))], table


def _parquet(path: Path, begin: int, end: int) -> tuple[list[str], np.ndarray]:
    import numpy as np

    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet", f"data.path '{path}'") from error
    file = parquet.ParquetFile(path)
    names = list(file.schema_arrow.names)
    parts = list(_row_groups(file, begin, end))
    columns = [[np.asarray(part.column(name), dtype=np.float32) for name in names] for part in parts]
    stacked = [np.column_stack(part) for part in columns]
    return names, np.concatenate(stacked) if stacked else np.empty((0, len(names)), dtype=np.float32)


def _row_groups(file: Any, begin: int, end: int) -> Iterator[Any]:
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        low, high = max(begin, first), min(end, first + rows)
        if low < high:
            yield file.read_row_group(group).slice(low - first, high - low)
        first += rows
