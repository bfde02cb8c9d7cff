"""One round of boosting a step, on this rank's rows: alone, or with ranks that XGBoost's own collective joins."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, NamedTuple

from hpcpar.errors import RunError
from hpcpar.records import Cause
from hpcpar.registry import StepResult
from hpcpar.worker.boosting import BoostingWorkload
from hpcpar.worker.context import JobContext

_NUMBER = re.compile(r"(?<=leaf=)[^,\s]+|(?<=<)[^\]]+")
"""Values of leaves and thresholds in XGBoost's text of a tree."""


class Shard(NamedTuple):
    """A rank's rows, binned."""

    training: Any
    """xgboost.QuantileDMatrix."""
    evaluation: Any
    """xgboost.DMatrix."""
    evaluation_rows: int


def span(num_rows: int, part: int, num_parts: int) -> tuple[int, int]:
    """Return the first row of part `part` (0, 1, ...) of `num_parts` and the row after its last."""
    return part * num_rows // num_parts, (part + 1) * num_rows // num_parts


def parameters(context: JobContext, workload: BoostingWorkload) -> dict[str, Any]:
    """Complete the workload's parameters with this rank's threads and device.

    Raises:
        RunError: a GPU is asked for, and XGBoost would quietly go on without one.
    """
    import xgboost

    device = "cpu"
    if workload.device == "cuda":
        if not xgboost.build_info().get("USE_CUDA"):
            what = f"device=cuda, but this XGBoost ({xgboost.__version__}) was built without CUDA"
            raise RunError(Cause.LAUNCH, f"{what}: install the package xgboost, not xgboost-cpu")
        if context.device.type != "cuda":
            what = "device=cuda, but the run asked for no GPU"
            raise RunError(Cause.LAUNCH, f"{what}: choose a node type with GPUs, or device=cpu")
        device = f"cuda:{context.device.index}"
    return {**workload.parameters, "device": device, "nthread": context.info.cpus_asked, "verbosity": 1}


def load_shard(context: JobContext, workload: BoostingWorkload, settings: dict[str, Any]) -> Shard:
    """Read this rank's rows and sort their values into bins (the sketch), each timed as a phase of its own."""
    import xgboost

    threads, held_out = settings["nthread"], workload.evaluation_rows
    part, num_parts = context.data_rank, context.mesh.data_ranks
    begin, end = span(context.identity.global_batch, part, num_parts)
    with context.phases("load"):
        x_NF, y_N = workload.samples.fetch(held_out + begin, held_out + end)
        evaluation_x, evaluation_y = workload.samples.fetch(*span(held_out, part, num_parts))
    with context.phases("sketch"):
        training = xgboost.QuantileDMatrix(x_NF, y_N, max_bin=workload.max_bin, nthread=threads)
        evaluation = xgboost.DMatrix(evaluation_x, evaluation_y, nthread=threads)
    return Shard(training, evaluation, len(evaluation_y))


class Grower:
    """A trainer: a step adds a tree and measures the metric on the evaluation rows, as xgboost.train does."""

    synchronous = True
    """A round is over when it returns, also on a GPU."""

    def __init__(self, settings: dict[str, Any], workload: BoostingWorkload, shard: Shard) -> None:
        import xgboost

        self._metric, self._shard = workload.metric, shard
        self._booster = xgboost.Booster(settings, [shard.training, shard.evaluation])

    def batch(self, step: int) -> int:
        """Return the round's number; all rows are here already."""
        return step - 1

    def step(self, batch: int) -> StepResult:
        """Add a tree."""
        self._booster.update(self._shard.training, batch)
        said = self._booster.eval_set([(self._shard.evaluation, "evaluation")], batch)
        value = float(said.rpartition(":")[2])
        # The value is that of all ranks' rows already; weighted so, their sum gives it again.
        weight = self._shard.evaluation_rows
        return StepResult(loss_sum=value * weight if math.isfinite(value) else math.nan, weight=weight, applied=True)

    def facts(self) -> dict[str, Any]:
        """Return what tells this model from another: digests of its trees, and of what each split asks."""
        trees = self._booster.get_dump(with_stats=False)
        splits = [_NUMBER.sub("", tree) for tree in trees]
        return {
            "metric": self._metric,
            "num_trees": len(trees),
            "trees_sha256": _digest(trees),
            "splits_sha256": _digest(splits),
        }

    def close(self) -> None:
        """Hold nothing that must be given back."""


def _digest(trees: list[str]) -> str:
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()[:16]


def build(context: JobContext, workload: BoostingWorkload) -> Grower:
    """Build the trainer for one process."""
    settings = parameters(context, workload)
    return Grower(settings, workload, load_shard(context, workload, settings))
