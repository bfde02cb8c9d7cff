"""How long the phases of a run took: start, build, train, finish."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Phases:
    """Made by the worker's entry; what it measured goes into the record."""

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._tell = tell

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a phase and tell of it once it has ended well."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun
        self._tell(name, self.seconds[name])
