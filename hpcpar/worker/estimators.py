"""What a workload of the kind "estimator" hands to the strategies. Light at import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from msgspec import Struct

from hpcpar.registry import Declaration

Claim = Literal["n_jobs", "threads inside", "none"]
"""What scikit-learn's documentation promises: a parameter for workers, native threads, or nothing."""


class FitSamples(Protocol):
    """The data of an estimator, made for a number of rows."""

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""


class EstimatorWorkload(Struct, frozen=True, kw_only=True):
    """Something that is fitted anew in every step."""

    declared: Declaration
    samples: FitSamples
    claim: Claim
    prepare: Callable[[int, int], Callable[[], float]]
    """(rows, n_jobs) -> what one step does: fit, use, and return the score, 1 being the best."""
