"""One round of boosting a step, on this rank's rows: alone, or with ranks that XGBoost's own collective joins."""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
from typing import Any, NamedTuple

from hpcpar.errors import RunError
from hpcpar.records import Cause
from hpcpar.registry import Scores, StepResult
from hpcpar.worker.boosting import BoostingWorkload
from hpcpar.worker.context import JobContext

_NUMBER = re.compile(r"(?<=leaf=)[^,\s]+|(?<=<)[^\]]+")
"""Values of leaves and thresholds in XGBoost's text of a tree."""


class Stopping:
    """XGBoost's rule of early stopping, for metrics of which less is better; the same answer on all ranks."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.best, self.best_round = math.inf, 0

    def __call__(self, number: int, value: float) -> bool:
        """Say whether to end after round `number` (0, 1, ...), whose metric this is."""
        if value < self.best:
            self.best, self.best_round = value, number
        return bool(self.rounds) and number - self.best_round >= self.rounds

    def kept(self, rounds: int) -> tuple[int, int]:
        """Return which of so many rounds count in the end, as XGBoost's iteration_range."""
        return 0, self.best_round + 1 if self.rounds else rounds


class Shard(NamedTuple):
    """A rank's rows, binned."""

    training: Any
    """xgboost.QuantileDMatrix, or ExtMemQuantileDMatrix."""
    evaluation: Any
    """xgboost.DMatrix."""
    evaluation_rows: int
    folder: Any = None
    """tempfile.TemporaryDirectory of bins that are not in memory."""


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
        evaluation_x, evaluation_y = workload.samples.fetch(*span(held_out, part, num_parts))
        rows = () if workload.batch_rows else workload.samples.fetch(held_out + begin, held_out + end)
    with context.phases("sketch"):
        if workload.batch_rows:
            folder = tempfile.TemporaryDirectory(prefix="hpcpar-bins-")
            batches = _batches(workload, range(held_out + begin, held_out + end), folder.name)
            training = xgboost.ExtMemQuantileDMatrix(batches, max_bin=workload.max_bin, nthread=threads)
            evaluation = xgboost.DMatrix(evaluation_x, evaluation_y, nthread=threads)
            return Shard(training, evaluation, len(evaluation_y), folder)
        training = xgboost.QuantileDMatrix(*rows, max_bin=workload.max_bin, nthread=threads)
        evaluation = xgboost.DMatrix(evaluation_x, evaluation_y, nthread=threads)
    return Shard(training, evaluation, len(evaluation_y))


def _batches(workload: BoostingWorkload, rows: range, folder: str) -> Any:
    """Return the iterator from which XGBoost makes bins that it keeps in a folder; it is gone through several times."""
    import xgboost

    class Batches(xgboost.DataIter):
        def __init__(self) -> None:
            self._begin = rows.start
            super().__init__(cache_prefix=f"{folder}/bins")

        def next(self, input_data: Any) -> bool:
            if self._begin >= rows.stop:
                return False
            end = min(self._begin + workload.batch_rows, rows.stop)
            x_NF, y_N = workload.samples.fetch(self._begin, end)
            input_data(data=x_NF, label=y_N)
            self._begin = end
            return True

        def reset(self) -> None:
            self._begin = rows.start

    return Batches()


class Grower:
    """A trainer: a step adds a tree and measures the metric on the evaluation rows, as xgboost.train does."""

    synchronous = True
    """A round is over when it returns, also on a GPU."""

    def __init__(self, settings: dict[str, Any], workload: BoostingWorkload, shard: Shard) -> None:
        import xgboost

        self._metric, self._shard = workload.metric, shard
        self._score = workload.evaluation.metric
        self._stopping = Stopping(workload.early_stopping_rounds)
        self.is_over = False
        self._last = StepResult(math.nan, shard.evaluation_rows, False)
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
        self.is_over = self._stopping(batch, value)
        loss_sum = value * weight if math.isfinite(value) else math.nan
        self._last = StepResult(loss_sum=loss_sum, weight=weight, applied=True)
        return self._last

    def evaluate(self) -> Scores:
        """Score this rank's evaluation rows with all trees that count; their loss is the metric after the last one."""
        counted = self._stopping.kept(self._booster.num_boosted_rounds())
        predicted_N = self._booster.predict(self._shard.evaluation, iteration_range=counted)
        labels_N = self._shard.evaluation.get_label()
        scored = accuracy if self._score == "accuracy" else explained_variance
        weight = self._last.weight
        loss_sum = self._stopping.best * weight if self._stopping.rounds else self._last.loss_sum
        return Scores(loss_sum, weight, *scored(predicted_N, labels_N))

    def facts(self) -> dict[str, Any]:
        """Return what tells this model from another: digests of its trees, and of what each split asks."""
        return describe(self._booster, self._metric, self._stopping)

    def close(self) -> None:
        """Remove the bins that lie on the disk."""
        if self._shard.folder is not None:
            self._shard.folder.cleanup()


def accuracy(chances_N: Any, labels_N: Any) -> tuple[float, float]:
    """Return how many of a rank's rows are of the likelier class, and how many rows it has."""
    return float(((chances_N > 0.5) == (labels_N > 0.5)).sum()), float(len(labels_N))


def explained_variance(predicted_N: Any, labels_N: Any) -> tuple[float, float]:
    """Return V - E and V of a rank's rows: squared distances of labels from the mean over all ranks, and from what was
    predicted. Sums over ranks give 1 - E / V."""
    import numpy as np
    from xgboost import collective

    ours = np.array([labels_N.sum(dtype=np.float64), len(labels_N)])
    total, count = collective.allreduce(ours, collective.Op.SUM)  # one worker alone gets its own back
    return explained_around(predicted_N, labels_N, total / count)


def explained_around(predicted_N: Any, labels_N: Any, mean: float) -> tuple[float, float]:
    """Return V - E and V of a rank's rows, where `mean` is that of the labels over all ranks."""
    import numpy as np

    around = float(np.square(labels_N - mean).sum(dtype=np.float64))
    missed = float(np.square(labels_N - predicted_N).sum(dtype=np.float64))
    return around - missed, around


def describe(booster: Any, metric: str, stopping: Stopping) -> dict[str, Any]:
    """Return what tells this model from another: digests of its trees, and of what each split asks."""
    trees = booster.get_dump(with_stats=False)
    splits = [_NUMBER.sub("", tree) for tree in trees]
    return {
        "metric": metric,
        "num_trees": len(trees),
        "trees_sha256": _digest(trees),
        "splits_sha256": _digest(splits),
        **({"best_round": stopping.best_round + 1} if stopping.rounds else {}),
    }


def _digest(trees: list[str]) -> str:
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()[:16]


def build(context: JobContext, workload: BoostingWorkload) -> Grower:
    """Build the trainer for one process."""
    settings = parameters(context, workload)
    return Grower(settings, workload, load_shard(context, workload, settings))
