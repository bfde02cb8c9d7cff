"""How long the phases of a run took: start, build, train, finish; restore and checkpoint where there are any."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping


class Phases:
    """Made by the worker's entry; what it measured goes into the record."""

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._tell = tell
        self._inside: list[float] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a phase, less the phases inside it, and tell of it once it has ended well. Equal ones add up."""
        begun = time.perf_counter()
        self._inside.append(0.0)
        yield
        lasted = time.perf_counter() - begun
        alone = lasted - self._inside.pop()
        if self._inside:
            self._inside[-1] += lasted
        self.seconds[name] = self.seconds.get(name, 0.0) + alone
        self._tell(name, alone)

    def less(self, inside_train: Mapping[str, float]) -> dict[str, float]:
        """Return all phases, with what the training contained beside steps taken out of it: no second counts twice."""
        taken = {name: min(seconds, self.seconds["train"]) for name, seconds in inside_train.items()}
        return {**self.seconds, **taken, "train": self.seconds["train"] - sum(taken.values())}
