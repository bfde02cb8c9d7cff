"""Strategies that synchronise with delay, as a job runs them over two nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from worker_runs import ATTEMPT, finish, logs, make_run, start

from hpcpar.outcome import decide
from hpcpar.records import Cause
from hpcpar.runs import RunFolder

OPTIONS: dict[str, dict[str, Any]] = {
    "localsgd": {"period": 5, "warmup": 3, "outer": "nesterov"},
    "async": {"staleness_bound": 2},
}


@pytest.mark.parametrize("strategy", OPTIONS)
def test_a_run_over_two_nodes_learns_and_says_how(tmp_path: Path, strategy: str) -> None:
    folder = make_run(tmp_path / "run", strategy, OPTIONS[strategy], nodes=2, ranks_per_node=1)
    assert finish(folder, start(folder)) == 0, logs(folder, 0)
    steps, record = folder.steps(ATTEMPT).records, folder.record()
    assert [step.step for step in steps] == list(range(1, 41))
    assert all(step.weight == 64 for step in steps)
    assert record is not None
    assert record.loss_first is not None
    assert record.loss_last is not None
    assert record.loss_last < record.loss_first / 2, "it learns"
    assert any(note.startswith(f"{strategy}: ") for note in record.notes)
    for step in steps:
        assert sorted(rank for rank, _ in step.arrivals) == ([0, 1] if strategy == "async" else [])
        assert all(0 <= late <= 2 for _, late in step.arrivals)


@pytest.mark.parametrize(
    ("rank", "deed", "cause"),
    [pytest.param(1, "kill", Cause.KILLED, marks=pytest.mark.full), (0, "blunder", Cause.PYTHON_ERROR)],
)
def test_a_lost_rank_ends_an_asynchronous_run(tmp_path: Path, rank: int, deed: str, cause: Cause) -> None:
    accident = {"deed": deed, "rank": rank, "step": 7, "under": "async"}
    folder = make_run(tmp_path / "run", "chaos", accident, nodes=2, ranks_per_node=1, steps=100_000)
    assert finish(folder, start(folder)) not in (0, 124), "it ended by itself, before the time limit"
    outcome = decide(RunFolder(folder.path))
    assert (outcome.state, outcome.cause) == ("failed", cause)
