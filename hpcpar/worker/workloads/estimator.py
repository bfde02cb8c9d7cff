"""estimator: one of scikit-learn's, by its name, fitted anew in every step."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hpcpar.errors import Problem, nearest
from hpcpar.registry import Declaration
from hpcpar.worker.estimators import EstimatorWorkload
from hpcpar.worker.workloads.estimator_list import ESTIMATORS


class EstimatorOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which one. The rows of its data are the study's global batch."""

    estimator: str = "RandomForestClassifier"
    """A class of scikit-learn, or cross_val_score."""


class Estimator:
    """A scikit-learn estimator on generated data that fit its kind."""

    name = "estimator"
    summary = "a scikit-learn estimator by name, with data of its kind; a step is one fit"
    extras = ("torch",)
    Options = EstimatorOptions

    def declare(self, options: EstimatorOptions) -> Declaration:
        """Describe the work."""
        known = ESTIMATORS.get(options.estimator)
        return Declaration(kind="estimator", sample_unit="rows", global_batch=known.rows if known else 1000, steps=6)

    def check(self, options: EstimatorOptions) -> list[Problem]:
        """Say whether the name is unknown."""
        if options.estimator in ESTIMATORS:
            return []
        where = f"workload {self.name}: estimator '{options.estimator}'"
        return [Problem(where, "is not known", nearest(options.estimator, ESTIMATORS))]

    def load(self, options: EstimatorOptions, seed: int) -> Any:
        """Build it (job)."""
        from functools import partial

        from hpcpar.worker.workloads import estimator_fits

        known = ESTIMATORS[options.estimator]
        return EstimatorWorkload(
            declared=self.declare(options),
            samples=estimator_fits.Described(known.data, seed),
            claim=known.claim,
            prepare=partial(estimator_fits.prepare, options.estimator, known, seed),
        )


WORKLOAD = Estimator()
