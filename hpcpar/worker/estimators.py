"""What a workload of the kind "estimator" hands to the strategies. Light at import."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from hpcpar.registry import Declaration

Claim = Literal["n_jobs", "threads inside", "none"]
"""What scikit-learn's documentation promises: a parameter for workers, native threads, or nothing."""


class FitSamples(Protocol):
    """The data of an estimator, made for a number of rows."""

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""


class Work(NamedTuple):
    """What a step does, in two parts that are timed apart."""

    fit: Callable[[], Any]
    use: Callable[[Any], float]
    """What was fitted -> its score, 1 being the best."""

    def __call__(self) -> float:
        """Do both."""
        return self.use(self.fit())


class Fitted(NamedTuple):
    """What came of a step."""

    score: float
    fit_s: float
    use_s: float


def timed(work: Work) -> Fitted:
    """Do a step."""
    begun = time.perf_counter()
    model = work.fit()
    between = time.perf_counter()
    score = work.use(model)
    return Fitted(score, between - begun, time.perf_counter() - between)


def in_parts(steps: Sequence[Fitted]) -> dict[str, float]:
    """Return the median seconds of both parts over all steps, for the record."""
    if not steps:
        return {}
    fit_s, use_s = ([getattr(step, part) for step in steps] for part in ("fit_s", "use_s"))
    return {"fit_s": statistics.median(fit_s), "use_s": statistics.median(use_s)}


class EstimatorWorkload(Struct, frozen=True, kw_only=True):
    """Something that is fitted anew in every step."""

    declared: Declaration
    samples: FitSamples
    claim: Claim
    prepare: Callable[[int, int], Work]
    """(rows, n_jobs) -> what one step does."""
