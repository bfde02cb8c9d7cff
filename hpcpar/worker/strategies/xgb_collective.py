"""XGBoost's native distributed training: rows are shared out, histograms are added up over the ranks."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class XgbCollectiveOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing is to be chosen."""


class XgbCollective:
    """dp_replicate takes all ranks: each has its rows and the whole model."""

    name = "xgb-collective"
    summary = "XGBoost's own distributed training, one worker a rank, rows shared out"
    kinds = frozenset({"boosting", "external-boosting"})
    extras = ("torch", "xgboost")
    Options = XgbCollectiveOptions

    def layout(self, world: World, options: XgbCollectiveOptions) -> Mesh:
        """Give every rank its rows."""
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: XgbCollectiveOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.trees.collective import build

        return build(context, workload)


STRATEGY = XgbCollective()
