"""Drivers and their workers on this machine: fits, and what is left when one of them is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from worker_runs import ATTEMPT, finish, logs, make_run, start

from hpcpar.outcome import decide
from hpcpar.records import Cause
from hpcpar.runs import RunFolder
from hpcpar.worker.trees.grow import Stopping

pytest.importorskip("dask_jobqueue", reason="Dask is not installed (pip install 'hpcpar[dask]')")


def workers_of(folder: RunFolder) -> set[int]:
    """Find the processes that have the run's folder for Dask's files; the driver itself took it only later."""
    found = set()
    mark = f"DASK_CONFIG={folder.path}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if mark in environment and b"spawn_main" in command:
                found.add(int(entry.name))
    return found


@pytest.fixture
def endless(tmp_path: Path) -> RunFolder:
    options = {"evaluation_rows": 1000, "max_depth": 2}
    return make_run(tmp_path / "run", "xgb-dask", None, "xgboost", options, 1, 2, steps=10**6, global_batch=4000)


def until_it_steps(folder: RunFolder, launcher: object) -> set[int]:
    while folder.last_step(ATTEMPT) < 3:
        assert launcher.poll() is None, logs(folder, 0)  # type: ignore[attr-defined]
        time.sleep(0.05)
    return workers_of(folder)


@pytest.mark.full
def test_a_driver_that_is_killed_leaves_no_worker_behind(endless: RunFolder) -> None:
    launcher = start(endless, time_limit=250)
    assert len(until_it_steps(endless, launcher)) == 2
    os.kill(endless.events(ATTEMPT).records[0].data["pid"], signal.SIGKILL)
    assert finish(endless, launcher) == 128 + signal.SIGKILL
    end = time.monotonic() + 60
    while workers_of(endless):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.full
def test_a_worker_that_is_killed_ends_the_run_with_a_cause(endless: RunFolder) -> None:
    launcher = start(endless, time_limit=250)
    os.kill(max(until_it_steps(endless, launcher)), signal.SIGKILL)
    assert finish(endless, launcher) == 1
    outcome = decide(endless)
    assert (outcome.state, outcome.cause) == ("failed", Cause.NETWORK)
    assert "of 2 lost: their job ended, a node failed, or a worker was killed" in outcome.message
    assert not endless.fleet(ATTEMPT).exists(), "the key is gone"
    assert not workers_of(endless)


@pytest.mark.full
@pytest.mark.parametrize(("estimator", "workers"), [("RandomForestClassifier", 2), ("GridSearchCV", 2), ("PCA", 1)])
def test_fits_go_to_the_workers_and_score_as_on_one_node(tmp_path: Path, estimator: str, workers: int) -> None:
    scores = []
    for strategy, ranks in (("threads", 1), ("joblib-dask", 2)):
        options = {"estimator": estimator}
        folder = make_run(
            tmp_path / strategy, strategy, None, "estimator", options, 1, ranks, steps=2, global_batch=400
        )
        assert finish(folder, start(folder)) == 0, logs(folder, 0)
        record = folder.record()
        assert record is not None
        scores.append(record.loss_last)
        assert record.facts["fit_s"] > 0
        assert record.facts["use_s"] >= 0
    assert record.facts["workers"] == workers
    assert len(record.ranks) == 2
    assert "workers" in record.phases
    assert scores[1] == pytest.approx(scores[0], abs=1e-9)


def test_early_stopping_counts_rounds_without_a_better_value() -> None:
    stopping = Stopping(2)
    assert [stopping(number, value) for number, value in enumerate([3.0, 2.0, 2.0, 1.9, 2.5, 1.9])] == [False] * 5 + [
        True
    ]
    assert (stopping.best, stopping.best_round, stopping.kept(6)) == (1.9, 3, (0, 4))
    never = Stopping(0)
    assert not any(never(number, 1.0) for number in range(100))
    assert never.kept(100) == (0, 100)
