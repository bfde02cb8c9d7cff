"""Fits from a driver: what an estimator gives to joblib is done by Dask's workers, on all nodes.

An estimator without n_jobs has nothing to give: the first worker fits it whole, with the CPUs that it has.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from hpcpar.registry import StepResult
from hpcpar.worker.context import JobContext
from hpcpar.worker.estimators import EstimatorWorkload, Fitted, in_parts, timed
from hpcpar.worker.fleet.fleet import Fleet, assemble

_LOOK_S = 0.25


class DrivenFitter:
    """A trainer in the driver: a step is one fit and one use of what was fitted; its loss is 1 - score."""

    synchronous = True

    def __init__(self, context: JobContext, workload: EstimatorWorkload, fleet: Fleet) -> None:
        self.crew = fleet
        each, self._claim = context.info.cpus_asked, workload.claim
        self._rows = context.identity.global_batch
        self._spread = workload.claim == "n_jobs"
        self._workers = each * len(fleet.addresses) if self._spread else 1
        self._native = 1 if self._spread else each
        self._thread = ThreadPoolExecutor(1, "fit", self._choose_backend)
        self._work: Any = None
        """estimators.Work, or Dask's future of it where a worker does all of it."""
        self._done: list[Fitted] = []
        with context.phases("load"):
            if self._spread:
                self._work = workload.prepare(self._rows, self._workers)
            else:
                prepare, first = workload.prepare, fleet.addresses[:1]
                self._work = fleet.client.submit(prepare, self._rows, 1, workers=first, pure=False)
                fleet.settled([self._work])
            fleet.everywhere(_limit, [(self._native,)] * len(fleet.addresses))
        fleet.begin()

    def _choose_backend(self) -> None:
        import joblib
        import threadpoolctl

        threadpoolctl.threadpool_limits(1)
        # What it sets counts in this thread, and as long as it lives.
        joblib.parallel_config(backend="dask", n_jobs=self._workers, client=self.crew.client)

    def batch(self, step: int) -> int:
        """Return the step: the data are here already."""
        return step

    def step(self, batch: int) -> StepResult:
        """Fit once."""
        self._done.append(self._here() if self._spread else self._elsewhere())
        return StepResult(loss_sum=(1 - self._done[-1].score) * self._rows, weight=self._rows, applied=True)

    def _here(self) -> Fitted:
        future = self._thread.submit(timed, self._work)
        while not wait([future], _LOOK_S).done:
            self.crew.check()  # joblib would wait for ever
        return future.result()

    def _elsewhere(self) -> Fitted:
        first = self.crew.addresses[:1]
        (done,) = self.crew.answers([self.crew.client.submit(timed, self._work, workers=first, pure=False)])
        return Fitted(*done)

    def facts(self) -> dict[str, Any]:
        """Return how the work was spread."""
        spread = {"claim": self._claim, "workers": self._workers, "native_threads": self._native}
        return {**spread, **in_parts(self._done)}

    def close(self) -> None:
        """Send the workers home."""
        self.crew.close()
        self._thread.shutdown(wait=False, cancel_futures=True)


def build(context: JobContext, workload: EstimatorWorkload) -> DrivenFitter:
    """Start the workers and build the trainer.

    Raises:
        RunError: the workers did not come.
    """
    fleet = assemble(context)
    try:
        return DrivenFitter(context, workload, fleet)
    except BaseException:
        fleet.close()
        raise


def _limit(threads: int) -> None:
    import sklearn.ensemble  # noqa: F401 - only libraries that are loaded can be limited
    import threadpoolctl

    threadpoolctl.threadpool_limits(threads)
