"""Pools of two and of four ranks, for the whole session; started when a test first asks for one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function from a number of ranks to its pool."""
    from pool import Pool

    made: dict[int, Pool] = {}

    def get(size: int) -> Pool:
        if size in made and (made[size].worn or not made[size].alive):
            made.pop(size).close()
        if size not in made:
            made[size] = Pool(size, tmp_path_factory.mktemp("pool"))
        return made[size]

    yield get
    for one in made.values():
        one.close()
