"""XGBoost alone and over ranks: real processes, the same trees where XGBoost promises it, the same quality elsewhere."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from worker_runs import ATTEMPT, finish, logs, make_run, start

from hpcpar.outcome import decide
from hpcpar.records import Cause, RunRecord
from hpcpar.runs import RunFolder

pytest.importorskip("xgboost", reason="xgboost is not installed (pip install 'hpcpar[xgboost-cpu]')")

ROWS, ROUNDS = 40_000, 12
OPTIONS = {"evaluation_rows": 10_000, "max_depth": 4, "eta": 0.3}


def run(folder: Path, strategy: str, ranks: int = 1, **options: object) -> RunFolder:
    """Train to the end."""
    made = make_run(
        folder, strategy, None, "xgboost", {**OPTIONS, **options}, 1, ranks, steps=ROUNDS, global_batch=ROWS
    )
    assert finish(made, start(made)) == 0, logs(made, 0)
    return made


def record_of(folder: RunFolder) -> RunRecord:
    record = folder.record()
    assert record is not None
    return record


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(tmp_path_factory.mktemp("alone") / "run", "single")


def test_a_round_is_a_step_and_loading_and_sketching_are_phases(alone: RunFolder) -> None:
    steps = alone.steps(ATTEMPT).records
    assert [step.step for step in steps] == list(range(1, ROUNDS + 1))
    assert all(step.time_s > 0 and step.weight == OPTIONS["evaluation_rows"] for step in steps)
    losses = [step.loss for step in steps if step.loss is not None]
    assert losses == sorted(losses, reverse=True), "held-out loss falls round by round: there is something to learn"
    record = record_of(alone)
    assert set(record.phases) == {"start", "build", "load", "sketch", "train", "finish"}
    assert record.phases["build"] > record.phases["load"] + record.phases["sketch"]
    assert record.data["num_trees"] == ROUNDS
    assert record.data["metric"] == "logloss"
    assert {"xgboost", "xgboost-cpu"} & set(record.versions)


def test_one_worker_of_the_collective_grows_the_same_trees(alone: RunFolder, tmp_path: Path) -> None:
    collective = record_of(run(tmp_path / "run", "xgb-collective"))
    assert collective.data["trees_sha256"] == record_of(alone).data["trees_sha256"]


def test_workers_share_the_rows_and_agree_with_one_process(alone: RunFolder, tmp_path: Path) -> None:
    several = run(tmp_path / "run", "xgb-collective", ranks=2)
    record = record_of(several)
    assert len(record.ranks) == 2
    steps, expected = several.steps(ATTEMPT).records, alone.steps(ATTEMPT).records
    assert all(step.weight == OPTIONS["evaluation_rows"] for step in steps)
    assert [step.loss for step in steps] == pytest.approx([step.loss for step in expected], abs=TOLERANCE)
    assert not several.rendezvous_path(ATTEMPT).exists()


TOLERANCE = 2e-3
