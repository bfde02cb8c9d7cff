"""DeepSpeed's strategies as a job runs them over two nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_deepspeed import pytestmark as needs_deepspeed
from worker_runs import ATTEMPT, finish, logs, make_run, start

from hpcpar.outcome import decide
from hpcpar.records import Cause

pytestmark = needs_deepspeed

SHARED_MEMORY = Path("/dev/shm")


@pytest.mark.parametrize(
    ("strategy", "nodes"),
    [
        ("deepspeed-zero", 2),
        pytest.param("deepspeed-tp", 2, marks=pytest.mark.full),
        pytest.param("deepspeed-pp", 2, marks=pytest.mark.full),
        pytest.param("deepspeed-zero", 1, marks=pytest.mark.full),
    ],
)
def test_a_run_learns_without_a_compiler_and_leaves_nothing_in_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, nodes: int
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setenv("LOCAL_SIZE", str(nodes))  # with it, DeepSpeed by itself leaves 66 MiB a rank for ever
    folder = make_run(tmp_path / "run", strategy, nodes=nodes, ranks_per_node=1, grad_accum=2, steps=15)
    assert finish(folder, start(folder)) == 0, logs(folder, 0)
    assert list(SHARED_MEMORY.glob("deepspeed*")) == []
    assert not (tmp_path / "extensions").exists()
    record = folder.record()
    assert record is not None
    assert "deepspeed" in record.versions
    counted = 2 if strategy == "deepspeed-tp" else 1  # as under tp, all ranks that share a layer know its loss
    assert [step.weight for step in folder.steps(ATTEMPT).records] == [64.0 * counted] * 15
    assert record.loss_first is not None
    assert record.loss_last is not None
    assert record.loss_last < 0.9 * record.loss_first, "it learns"
    assert logs(folder, 0).count("deprecated") == 0, "some lines a step would drown what matters"


@pytest.mark.parametrize(
    ("rank", "deed", "cause"),
    [(1, "kill", Cause.KILLED), pytest.param(0, "blunder", Cause.PYTHON_ERROR, marks=pytest.mark.full)],
)
def test_a_lost_rank_ends_the_run(tmp_path: Path, rank: int, deed: str, cause: Cause) -> None:
    accident = {"deed": deed, "rank": rank, "step": 7, "under": "deepspeed-zero"}
    folder = make_run(tmp_path / "run", "chaos", accident, nodes=2, ranks_per_node=1, steps=100_000)
    assert finish(folder, start(folder)) not in (0, 124), "it ended by itself, before the time limit"
    outcome = decide(folder)
    assert (outcome.state, outcome.cause) == ("failed", cause)
