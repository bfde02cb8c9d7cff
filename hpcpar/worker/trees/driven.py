"""xgboost.dask from its driver: rows are made on the workers, one training runs there, and tells of its rounds.

A round's time is what the workers measured, as under the other strategies; what the driver waited is not used.

Legend: N rows, F features.
"""

from __future__ import annotations

import queue
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hpcpar.errors import RunError
from hpcpar.records import Cause, Step
from hpcpar.registry import Scores, StepResult, Trainer
from hpcpar.worker.boosting import BoostingWorkload, LabelledRows
from hpcpar.worker.context import JobContext
from hpcpar.worker.fleet.fleet import Fleet, assemble
from hpcpar.worker.trees import grow
from hpcpar.worker.trees.collective import COLLECTIVE_TIMEOUT_S, told_as_network

_TOPIC = "hpcpar-rounds"
_LOOK_S = 0.25
_NOTICED_WITHIN_S = 10.0
"""How much later than XGBoost, whose connections break at once, Dask's scheduler knows of a worker's end."""


class DrivenGrower:
    """A trainer in the driver: a step is over when all workers have told of the round."""

    synchronous = True

    def __init__(self, context: JobContext, workload: BoostingWorkload, fleet: Fleet) -> None:
        self.crew = fleet
        self._context, self._workload = context, workload
        self._settings = grow.parameters(context, workload)
        self._told: queue.Queue[dict[str, Any]] = queue.Queue()
        self._rounds: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
        self._times_s: dict[int, list[float]] = {}
        self._training: Future[Any] | None = None
        self._thread = ThreadPoolExecutor(1, "training")
        self._sketch_s = 0.0
        self._last = StepResult(None, 0.0, False)
        self._stopping = grow.Stopping(workload.early_stopping_rounds)
        self.is_over = False
        with context.phases("load"):
            self._load()

    def _load(self) -> None:
        fleet, held_out = self.crew, self._workload.evaluation_rows
        parts = range(len(fleet.addresses))
        training = [grow.span(self._context.identity.global_batch, part, len(parts)) for part in parts]
        samples = self._workload.samples
        rows = fleet.send(_fetch, [(samples, held_out + begin, held_out + end) for begin, end in training])
        held = fleet.send(_fetch, [(samples, *grow.span(held_out, part, len(parts))) for part in parts])
        self._sizes = [(end - begin) for begin, end in training]
        self._rows, self._held = _pairs(fleet, rows), _pairs(fleet, held)
        fleet.settled([*self._rows[0], *self._rows[1], *self._held[0], *self._held[1]])
        self._num_features = fleet.answers([fleet.client.submit(_width, self._rows[0][0])])[0]

    def batch(self, step: int) -> int:
        """Return the round's number."""
        return step - 1

    def step(self, batch: int) -> StepResult:
        """Wait until all workers have added the tree."""
        if self._training is None:
            self._begin()
        told = self._round(batch)
        self._times_s[batch + 1] = [told[rank]["time_s"] for rank in range(len(told))]
        value, weight = told[0]["value"], self._workload.evaluation_rows
        self.is_over = self._stopping(batch, value)
        self._last = StepResult(loss_sum=value * weight, weight=weight, applied=True)
        return self._last

    def _begin(self) -> None:
        self.crew.begin()
        self.crew.client.subscribe_topic(_TOPIC, lambda event: self._told.put(event[1]))
        begun = time.perf_counter()
        self._training = self._thread.submit(self._train)
        self._round(-1)  # each tells so when its rows are binned and the others were met
        self._sketch_s = time.perf_counter() - begun

    def _train(self) -> Any:
        from xgboost import collective
        from xgboost import dask as on_dask

        fleet, workload = self.crew, self._workload
        host = fleet.client.scheduler.address.rpartition("/")[2].rpartition(":")[0].strip("[]")
        sizes = [grow.span(workload.evaluation_rows, part, len(self._sizes)) for part in range(len(self._sizes))]
        training = on_dask.DaskQuantileDMatrix(
            fleet.client, *_table(self._rows, self._sizes, self._num_features), max_bin=workload.max_bin
        )
        held = on_dask.DaskDMatrix(
            fleet.client, *_table(self._held, [end - begin for begin, end in sizes], self._num_features)
        )
        rank_of = {address: rank for rank, address in enumerate(fleet.addresses)}
        return on_dask.train(
            fleet.client,
            self._settings,
            training,
            self._context.identity.steps,
            evals=[(held, "evaluation")],
            verbose_eval=False,
            callbacks=[_teller(rank_of, workload.metric, grow.Stopping(workload.early_stopping_rounds))],
            coll_cfg=collective.Config(timeout=COLLECTIVE_TIMEOUT_S, tracker_host_ip=host),
        )

    def _hear(self) -> dict[str, Any]:
        """Return what a worker tells next.

        Raises:
            RunError: a worker was lost.
        """
        assert self._training is not None
        while True:
            try:
                return self._told.get(timeout=_LOOK_S)
            except queue.Empty:
                self.crew.check()
                if self._training.done() and self._told.empty():
                    self._ended()

    def _ended(self) -> None:
        assert self._training is not None
        error = self._training.exception()
        deadline = time.monotonic() + _NOTICED_WITHIN_S
        while error is not None and time.monotonic() < deadline:
            self.crew.check()  # the end of a worker explains what the others say of it
            time.sleep(_LOOK_S)
        with told_as_network():
            self._training.result()
        raise RunError(Cause.NETWORK, "the workers ended their training before its last round")

    def _round(self, number: int) -> dict[int, dict[str, Any]]:
        """Return what all workers tell of a round, by worker; the first may be in the next one already."""
        while len(self._rounds[number]) < len(self.crew.addresses):
            told = self._hear()
            self._rounds[told["round"]][told["rank"]] = told
        return self._rounds.pop(number)

    def complete(self, records: Sequence[Step]) -> list[Step]:
        """Put the workers' own times into the records."""
        for record in records:
            times_s = self._times_s.pop(record.step)
            record.time_s, record.time_min_s = max(times_s), min(times_s)
            record.time_mean_s = sum(times_s) / len(times_s)
            record.slowest = times_s.index(max(times_s))
        return list(records)

    def phases(self) -> dict[str, float]:
        """Return how long it took until all workers had binned their rows and met."""
        return {"sketch": self._sketch_s}

    def evaluate(self) -> Scores:
        """Have the workers score their evaluation rows with all trees."""
        fleet, booster = self.crew, self._booster()
        labels = fleet.answers([fleet.client.submit(_sum, y, pure=False) for y in self._held[1]])
        mean = sum(total for total, _ in labels) / sum(count for _, count in labels)
        booster.set_param({"nthread": self._settings["nthread"]})
        everywhere, rows = fleet.client.scatter(booster, broadcast=True), zip(*self._held, strict=True)
        metric = self._workload.evaluation.metric
        counted = self._stopping.kept(booster.num_boosted_rounds())
        shares = fleet.everywhere(_score, [((everywhere, counted), x, y, metric, mean) for x, y in rows])
        weight = self._last.weight
        loss_sum = self._stopping.best * weight if self._stopping.rounds else self._last.loss_sum
        return Scores(loss_sum, weight, *(sum(column) for column in zip(*shares, strict=True)))

    def facts(self) -> dict[str, Any]:
        """Return what tells this model from another."""
        return grow.describe(self._booster(), self._workload.metric, self._stopping)

    def _booster(self) -> Any:
        assert self._training is not None
        return self._training.result()["booster"]

    def close(self) -> None:
        """Send the workers home."""
        self.crew.close()
        self._thread.shutdown(wait=False, cancel_futures=True)


def build(context: JobContext, workload: BoostingWorkload) -> Trainer:
    """Start the workers and build the trainer.

    Raises:
        RunError: the workers did not come, or a GPU is asked for.
    """
    if workload.device == "cuda":
        raise RunError(Cause.LAUNCH, "xgb-dask trains on CPUs: choose device=cpu, or xgb-collective")
    fleet = assemble(context)
    try:
        return DrivenGrower(context, workload, fleet)
    except BaseException:
        fleet.close()
        raise


# ---------------------------------------------------------------- on the workers


def _fetch(samples: LabelledRows, begin: int, end: int) -> tuple[Any, Any]:
    return samples.fetch(begin, end)


def _part(pair: tuple[Any, Any], place: int) -> Any:
    return pair[place]


def _width(x_NF: Any) -> int:
    return int(x_NF.shape[1])


def _sum(labels_N: Any) -> tuple[float, int]:
    return float(labels_N.sum(dtype="float64")), len(labels_N)


def _score(
    model: tuple[Any, tuple[int, int]], x_NF: Any, labels_N: Any, metric: str, mean: float
) -> tuple[float, float]:
    booster, counted = model
    predicted_N = booster.inplace_predict(x_NF, iteration_range=counted)
    if metric == "accuracy":
        return grow.accuracy(predicted_N, labels_N)
    return grow.explained_around(predicted_N, labels_N, mean)


def _pairs(fleet: Fleet, futures: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Split futures of (features, labels), each where its rows are."""
    return (
        fleet.send(_part, [(future, 0) for future in futures]),
        fleet.send(_part, [(future, 1) for future in futures]),
    )


def _table(futures: tuple[list[Any], list[Any]], sizes: Sequence[int], num_features: int) -> tuple[Any, Any]:
    """Return Dask arrays, features and labels, of which each worker has one chunk."""
    import dask
    from dask import array

    x = [
        array.from_delayed(dask.delayed(one), (size, num_features), "float32")
        for one, size in zip(futures[0], sizes, strict=True)
    ]
    y = [array.from_delayed(dask.delayed(one), (size,), "float32") for one, size in zip(futures[1], sizes, strict=True)]
    return array.concatenate(x), array.concatenate(y)


def _teller(rank_of: Mapping[str, int], metric: str, stopping: grow.Stopping) -> Any:
    """Return a callback of XGBoost's that tells the driver of every round. It travels to the workers."""
    from xgboost.callback import TrainingCallback

    class Teller(TrainingCallback):
        """Pickled by value: the workers import no class of this name."""

        begun = 0.0

        def _tell(self, **what: Any) -> None:
            from distributed import get_worker

            worker = get_worker()
            worker.log_event(_TOPIC, {"rank": rank_of[worker.address], **what})

        def before_training(self, model: Any) -> Any:
            self._tell(round=-1)
            return model

        def before_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            self.begun = time.perf_counter()
            return False

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            lasted_s = time.perf_counter() - self.begun
            value = float(evals_log["evaluation"][metric][-1])
            self._tell(round=epoch, time_s=lasted_s, value=value)
            return stopping(epoch, value)

    return Teller()
