"""xgboost: gradient-boosted trees on a table. A step is a round of boosting, its loss the metric on held-out rows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from hpcpar.errors import Problem
from hpcpar.registry import Declaration
from hpcpar.worker.boosting import BoostingWorkload, DeviceName, Evaluation
from hpcpar.worker.data.user_table import TableOptions, check

_OBJECTIVES = {
    "classification": ("binary:logistic", "logloss", "accuracy"),
    "regression": ("reg:squarederror", "rmse", "explained_variance"),
}


class BoostedTreesOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table, and how trees grow. The rows of training are the study's global batch."""

    task: Literal["classification", "regression"] = "classification"
    """"classification" is of two classes, 0 and 1; its metric is the log loss, that of "regression" the RMSE."""
    data: TableOptions = TableOptions()
    """Which table."""
    num_features: Annotated[int, Meta(ge=4, le=100_000)] = 28
    """Of the generated table; HIGGS has 28."""
    levels: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Values of the generated features in one unit of their spread; 0: they are continuous. Up to 8, every value is a
    bin of its own, and the trees then decide alike over any number of workers, but for rounding: thresholds may lie
    elsewhere in a gap without rows."""
    evaluation_rows: Annotated[int, Meta(ge=1000)] = 20_000
    """The first rows of the table: kept from training, and measured after each round."""
    max_depth: Annotated[int, Meta(ge=1, le=30)] = 6
    """Levels of a tree."""
    eta: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """How much of each tree counts."""
    max_bin: Annotated[int, Meta(ge=2, le=65_536)] = 256
    """Into how many bins a feature's values are sorted."""
    reg_lambda: Annotated[float, Meta(ge=0)] = 1.0
    """L2 penalty on leaves."""
    early_stopping_rounds: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """End when the metric on the evaluation rows was no better for so many rounds; 0: do all rounds."""
    batch_rows: Annotated[int, Meta(ge=0)] = 0
    """For data larger than memory: a rank reads so many rows at a time, and keeps them in bins on the disk (TMPDIR).
    0: all in memory."""
    device: DeviceName = "cpu"
    """"cuda" needs a profile with GPUs and an XGBoost built for them."""


class BoostedTrees:
    """XGBoost, histogram method."""

    name = "xgboost"
    summary = "gradient-boosted trees (XGBoost, hist) on a generated table like HIGGS, or on your own"
    extras = ("xgboost",)
    Options = BoostedTreesOptions

    def declare(self, options: BoostedTreesOptions) -> Declaration:
        """Describe the work."""
        return Declaration(
            kind="external-boosting" if options.batch_rows else "boosting",
            sample_unit="rows",
            global_batch=200_000,
            steps=50,
            declares_steps=not options.early_stopping_rounds,
        )

    def check(self, options: BoostedTreesOptions) -> list[Problem]:
        """Say whether the table is not there."""
        return check(options.data, f"workload {self.name}")

    def load(self, options: BoostedTreesOptions, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.data.particles import Particles
        from hpcpar.worker.data.user_table import UserTable

        objective, metric, score = _OBJECTIVES[options.task]
        regression = options.task == "regression"
        return BoostingWorkload(
            declared=self.declare(options),
            samples=UserTable(options.data)
            if options.data.path
            else Particles(options.num_features, seed, regression=regression, levels=options.levels),
            evaluation_rows=options.evaluation_rows,
            parameters={
                "tree_method": "hist",
                "objective": objective,
                "eval_metric": metric,
                "max_depth": options.max_depth,
                "eta": options.eta,
                "max_bin": options.max_bin,
                "lambda": options.reg_lambda,
                "seed": seed,
            },
            metric=metric,
            evaluation=Evaluation(range(options.evaluation_rows), score),
            max_bin=options.max_bin,
            device=options.device,
            early_stopping_rounds=options.early_stopping_rounds,
            batch_rows=options.batch_rows,
        )


WORKLOAD = BoostedTrees()
