"""XGBoost over Dask: a driver starts a job with workers, and trains on them."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class XgbDaskOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing is to be chosen."""


class XgbDask:
    """dp_replicate takes all workers: each has its rows and the whole model."""

    name = "xgb-dask"
    summary = "XGBoost over Dask: a driver job starts a second one with the workers, rows shared out"
    kinds = frozenset({"boosting"})
    extras = ("torch", "xgboost", "dask")
    drives = True
    Options = XgbDaskOptions

    def layout(self, world: World, options: XgbDaskOptions) -> Mesh:
        """Give every worker its rows."""
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: XgbDaskOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.trees.driven import build

        return build(context, workload)


STRATEGY = XgbDask()
