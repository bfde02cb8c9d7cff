"""scikit-learn's estimators on one node: each fits, and scores the same however many workers share the work."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import pytest
import threadpoolctl
from worker_runs import ATTEMPT, finish, logs, make_run, start

from hpcpar.errors import RunError
from hpcpar.worker import facts
from hpcpar.worker.fits import one_node
from hpcpar.worker.workloads import estimator_fits
from hpcpar.worker.workloads.estimator_list import ESTIMATORS

ROWS = 400


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_claim_of_n_jobs_is_what_the_signature_says(name: str) -> None:
    import inspect

    kind = getattr(import_module(f"sklearn.{ESTIMATORS[name].module}"), name)
    assert ("n_jobs" in inspect.signature(kind).parameters) == (ESTIMATORS[name].claim == "n_jobs")


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_estimator_learns_and_scores_the_same_with_two_workers(name: str) -> None:
    known = ESTIMATORS[name]
    with threadpoolctl.threadpool_limits(1), joblib.parallel_config(backend="threading"):
        one = estimator_fits.prepare(name, known, 0, ROWS, 1)()
        assert 0.3 < one <= 1, "it has learnt something"
        if known.claim == "n_jobs":
            assert estimator_fits.prepare(name, known, 0, ROWS, 2)() == pytest.approx(one, abs=1e-9)


@pytest.mark.parametrize("strategy", ["threads", pytest.param("processes", marks=pytest.mark.full)])
def test_a_fit_is_a_step(tmp_path: Path, strategy: str) -> None:
    options = {"estimator": "RandomForestClassifier"}
    workers = {"workers": 1}
    folder = make_run(tmp_path / "run", strategy, workers, "estimator", options, 1, 1, steps=3, global_batch=ROWS)
    assert finish(folder, start(folder)) == 0, logs(folder, 0)
    record = folder.record()
    assert record is not None
    assert [step.step for step in folder.steps(ATTEMPT).records] == [1, 2, 3]
    assert record.facts["claim"] == "n_jobs"
    assert (record.facts["workers"], record.facts["native_threads"]) == (1, 1)
    assert record.loss_first == record.loss_last, "the same data and seed"
    assert {"scikit-learn", "joblib"} <= set(record.versions)


def test_more_workers_than_cpus_are_refused() -> None:
    rank: Any = SimpleNamespace(info=SimpleNamespace(cpus_asked=1))
    workload: Any = None
    message = f"2 workers, but the rank asked for 1 CPUs and may use {facts.usable_cpus()}: choose fewer workers"
    with pytest.raises(RunError, match=message):
        one_node.build(rank, workload, "threading", 2)
