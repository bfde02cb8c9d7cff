"""The estimators that the workload knows: what they are fitted on, and what their documentation promises.

Claims: scikit-learn 1.9, the parameter n_jobs of each class; "threads inside" are those of its User Guide, section
"Parallelism, resource management, and configuration" (OpenMP in Cython code, or threads of BLAS and LAPACK), for the
classes whose work is in such code. Rows are chosen so that one fit takes some tenths of a second on one CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from hpcpar.worker.estimators import Claim

DataName = Literal["classes", "targets", "blobs", "factors"]


class Known(NamedTuple):
    """One line of the list."""

    module: str
    data: DataName
    claim: Claim
    rows: int
    parameters: Mapping[str, Any] = MappingProxyType({})


_FOREST = MappingProxyType({"n_estimators": 40, "max_depth": 12})
_BOOST = MappingProxyType({"n_estimators": 20})
_HIST = MappingProxyType({"max_iter": 40})
_SEARCH = MappingProxyType({"cv": 4})

ESTIMATORS: dict[str, Known] = {
    "RandomForestClassifier": Known("ensemble", "classes", "n_jobs", 4000, _FOREST),
    "RandomForestRegressor": Known("ensemble", "targets", "n_jobs", 2000, _FOREST),
    "ExtraTreesClassifier": Known("ensemble", "classes", "n_jobs", 8000, _FOREST),
    "ExtraTreesRegressor": Known("ensemble", "targets", "n_jobs", 6000, _FOREST),
    "HistGradientBoostingClassifier": Known("ensemble", "classes", "threads inside", 20_000, _HIST),
    "HistGradientBoostingRegressor": Known("ensemble", "targets", "threads inside", 20_000, _HIST),
    "GradientBoostingClassifier": Known("ensemble", "classes", "none", 3000, _BOOST),
    "GradientBoostingRegressor": Known("ensemble", "targets", "none", 3000, _BOOST),
    "KNeighborsClassifier": Known("neighbors", "classes", "n_jobs", 8000, MappingProxyType({"algorithm": "kd_tree"})),
    "KNeighborsRegressor": Known("neighbors", "targets", "n_jobs", 8000, MappingProxyType({"algorithm": "kd_tree"})),
    "LinearSVC": Known("svm", "classes", "none", 20_000),
    "LinearSVR": Known("svm", "targets", "none", 20_000),
    "SVC": Known("svm", "classes", "none", 3000),
    "SVR": Known("svm", "targets", "none", 3000),
    "DBSCAN": Known("cluster", "blobs", "n_jobs", 8000, MappingProxyType({"eps": 2.0, "algorithm": "kd_tree"})),
    "AgglomerativeClustering": Known("cluster", "blobs", "none", 3000, MappingProxyType({"n_clusters": 8})),
    "KMeans": Known("cluster", "blobs", "threads inside", 60_000, MappingProxyType({"n_clusters": 8, "n_init": 4})),
    "MiniBatchKMeans": Known(
        "cluster", "blobs", "threads inside", 60_000, MappingProxyType({"n_clusters": 8, "n_init": 4})
    ),
    "PCA": Known("decomposition", "factors", "threads inside", 40_000, MappingProxyType({"n_components": 8})),
    "TruncatedSVD": Known("decomposition", "factors", "threads inside", 20_000, MappingProxyType({"n_components": 8})),
    "RidgeCV": Known("linear_model", "targets", "threads inside", 60_000),
    "cross_val_score": Known("model_selection", "classes", "n_jobs", 1500, _SEARCH),
    "GridSearchCV": Known("model_selection", "classes", "n_jobs", 800, _SEARCH),
    "RandomizedSearchCV": Known("model_selection", "classes", "n_jobs", 800, _SEARCH),
}
