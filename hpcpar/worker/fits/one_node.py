"""Fits on one node: workers of joblib (threads or processes) where scikit-learn takes them, else native threads.

Workers x native threads never exceed what was asked for: an estimator with n_jobs has that many workers of one native
thread each, any other has one worker and that many native threads.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from hpcpar.errors import RunError
from hpcpar.records import Cause
from hpcpar.registry import StepResult
from hpcpar.worker import facts
from hpcpar.worker.context import JobContext
from hpcpar.worker.estimators import EstimatorWorkload, Fitted, in_parts, timed

Backend = Literal["threading", "loky"]


class Fitter:
    """A trainer: a step is one fit and one use of what was fitted; its loss is 1 - score."""

    synchronous = True

    def __init__(self, context: JobContext, workload: EstimatorWorkload, backend: Backend, workers: int) -> None:
        import joblib
        import threadpoolctl

        jobs = workers if workload.claim == "n_jobs" else 1
        native = workers // jobs
        self._rows, self._claim = context.identity.global_batch, workload.claim
        self._jobs, self._native = jobs, native
        with context.phases("load"):
            self._work = workload.prepare(self._rows, jobs)
        self._done: list[Fitted] = []
        self._held = contextlib.ExitStack()
        # After everything was imported: only libraries that are loaded can be limited.
        self._held.enter_context(threadpoolctl.threadpool_limits(native))
        inner = {"inner_max_num_threads": native} if backend == "loky" else {}
        self._held.enter_context(joblib.parallel_config(backend=backend, n_jobs=jobs, **inner))

    def batch(self, step: int) -> int:
        """Return the step: the data are here already."""
        return step

    def step(self, batch: int) -> StepResult:
        """Fit once."""
        self._done.append(timed(self._work))
        return StepResult(loss_sum=(1 - self._done[-1].score) * self._rows, weight=self._rows, applied=True)

    def facts(self) -> dict[str, Any]:
        """Return how the work was spread."""
        spread = {"claim": self._claim, "workers": self._jobs, "native_threads": self._native}
        return {**spread, **in_parts(self._done)}

    def close(self) -> None:
        """End the workers and lift the limits."""
        self._held.close()


def build(context: JobContext, workload: EstimatorWorkload, backend: Backend, workers: int) -> Fitter:
    """Build the trainer; 0 workers are as many as the rank has CPUs.

    Raises:
        RunError: more workers than CPUs: their times would say nothing.
    """
    asked, usable = workers or context.info.cpus_asked, facts.usable_cpus()
    if asked > min(context.info.cpus_asked, usable):
        what = f"{asked} workers, but the rank asked for {context.info.cpus_asked} CPUs and may use {usable}"
        raise RunError(Cause.LAUNCH, f"{what}: choose fewer workers, or more --cpus-per-rank")
    return Fitter(context, workload, backend, asked)
