"""What one step of an estimator does: fit it, use it, and score it. Imports scikit-learn."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from sklearn import datasets
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import RandomizedSearchCV, cross_val_score
from sklearn.svm import SVC

from hpcpar.worker.estimators import Work
from hpcpar.worker.workloads.estimator_list import DataName, Known

_FEATURES = 8
_WIDE = 64
"""Features of the data for decompositions."""
_CENTRES = 8


class Described(NamedTuple):
    """What the record says of the data."""

    data: DataName
    seed: int

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""
        return {"name": f"sklearn.datasets: {self.data}", "seed": self.seed, "synthetic": True}


def make(data: DataName, rows: int, seed: int) -> tuple[Any, Any]:
    """Make the data of a kind: features, and labels where there are any."""
    if data == "classes":
        made = datasets.make_classification(
            rows, _FEATURES, n_informative=5, n_redundant=2, n_clusters_per_class=3, random_state=seed
        )
    elif data == "targets":
        made = datasets.make_friedman1(rows, _FEATURES, noise=1.0, random_state=seed)
    elif data == "blobs":
        made = datasets.make_blobs(rows, 4, centers=_CENTRES, random_state=seed)
    else:
        made = (datasets.make_low_rank_matrix(rows, _WIDE, effective_rank=_CENTRES, random_state=seed), None)
    return made[0], made[1]


def prepare(name: str, known: Known, seed: int, rows: int, jobs: int) -> Work:
    """Make data and estimator; return what one step does."""
    x, y = make(known.data, rows, seed)
    kind = getattr(import_module(f"sklearn.{known.module}"), name)
    parameters = dict(known.parameters)
    if known.claim == "n_jobs":
        parameters["n_jobs"] = jobs
    if known.module == "model_selection":
        return _selection(kind, parameters, seed, (x, y))
    if "random_state" in getattr(kind, "_parameter_constraints", {}):
        parameters["random_state"] = seed
    if known.data == "blobs":
        return Work(lambda: kind(**parameters).fit(x), lambda model: float(adjusted_rand_score(y, model.labels_)))
    if known.data == "factors":
        return Work(lambda: kind(**parameters).fit(x), lambda model: float(model.explained_variance_ratio_.sum()))
    return Work(lambda: kind(**parameters).fit(x, y), lambda model: float(model.score(x, y)))


def _selection(kind: Any, parameters: dict[str, Any], seed: int, data: tuple[Any, Any]) -> Work:
    if kind is cross_val_score:
        return Work(lambda: cross_val_score(SVC(), *data, **parameters), lambda scores: float(scores.mean()))
    choices = {"C": [0.1, 0.3, 1.0, 3.0], "gamma": [0.03, 0.1, 0.3]}
    drawn = {"n_iter": 8, "random_state": seed} if kind is RandomizedSearchCV else {}
    search = lambda: kind(SVC(), choices, **drawn, **parameters).fit(*data)  # noqa: E731
    return Work(search, lambda model: float(model.best_score_))
