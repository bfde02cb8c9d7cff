"""What becomes of a loss or gradient that is not finite: the same on every mesh, and records stay valid JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from worker_runs import ATTEMPT, finish, logs, make_run, start

from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.outcome import decide
from hpcpar.records import Cause

STEPS, WRONG = 4, 2
OPTIONS = {"hidden": 32, "layers": 7, "optimizer": "sgd", "lr": 0.05}
MESHES = [
    ("ddp", {}, 1),
    pytest.param("fsdp", {}, 2, marks=pytest.mark.full),
    pytest.param("tp", {}, 1, marks=pytest.mark.full),
    pytest.param("pp", {}, 4, marks=pytest.mark.full),
    ("hybrid", {"mesh": "pp=2,dp=2"}, 2),
]


def arguments(policy: str, grad_accum: int = 1) -> dict[str, Any]:
    options = {**OPTIONS, "nonfinite": policy}
    return {"step": WRONG, "steps": STEPS, "workload_options": options, "grad_accum": grad_accum}


def losses(ranks: list[Any]) -> list[float]:
    steps = zip(*(rank.losses for rank in ranks), strict=True)
    return [sum(loss for loss, _ in step) / sum(weight for _, weight in step) for step in steps]


@pytest.mark.parametrize(("strategy", "options", "grad_accum"), MESHES, ids=str)
def test_a_skipped_update_is_skipped_by_all_ranks_and_nothing_else_changes(
    pools: Any, strategy: str, options: dict[str, Any], grad_accum: int
) -> None:
    pool = pools(4)
    alone = pool.run("nonfinite_cases.alone", **arguments("skip"))[0]
    layout = {"world_size": 4, "strategy": strategy, "strategy_options": options}
    ranks = pool.run("nonfinite_cases.train", **layout, **arguments("skip", grad_accum))

    assert {tuple(rank.applied) for rank in ranks} == {(True, False, True, True)}
    assert alone.applied == [True, False, True, True]
    assert losses(ranks) == pytest.approx(losses([alone]), abs=1e-5, rel=0, nan_ok=True)
    assert [math.isfinite(loss) for loss in losses([alone])] == [True, False, True, True]


def test_an_update_that_is_not_finite_spoils_the_model_where_nobody_looks(pools: Any) -> None:
    alone = pools(4).run("nonfinite_cases.alone", **arguments("record"))[0]

    assert alone.applied == [True] * STEPS
    assert [math.isfinite(loss) for loss in losses([alone])] == [True, False, False, False]


def test_all_ranks_stop_together(pools: Any) -> None:
    layout = {"world_size": 4, "strategy": "hybrid", "strategy_options": {"mesh": "pp=2,dp=2"}}
    words = pools(4).run("nonfinite_cases.stopped", **layout, **arguments("stop", 2))

    assert set(words) == {"diverged: the loss or a gradient is not finite, and nonfinite is 'stop'"}


HOPELESS = {"optimizer": "sgd", "lr": 1e30}
"""The first update is finite, and no loss after it."""


@pytest.mark.full
def test_a_run_that_skips_is_done_and_its_records_are_valid_json(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "single", None, "mlp", {**HOPELESS, "nonfinite": "skip"}, ranks_per_node=1)
    assert finish(folder, start(folder)) == 0, logs(folder, 0)

    for path in (*folder.path.glob("*.jsonl"), folder.record_path):
        lines = [path.read_text()] if path == folder.record_path else path.read_text().splitlines()
        for line in filter(None, lines):
            json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    steps = folder.steps(ATTEMPT).records
    assert [(step.applied, step.loss is None) for step in steps] == [(True, False), *[(False, True)] * 39]
    row = reduce_run(folder)
    assert (row.state, row.skipped_updates, row.loss_diverged) == ("done", 35, True)
    assert row.goodput_updates_per_s == pytest.approx(1 / row.wall_s)


def test_a_run_that_stops_names_the_step(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "single", None, "mlp", {**HOPELESS, "nonfinite": "stop"}, ranks_per_node=1)
    assert finish(folder, start(folder)) == 1

    outcome = decide(folder)
    assert (outcome.state, outcome.cause) == ("failed", Cause.DIVERGED)
    assert "step 2: the loss or a gradient is not finite, and nonfinite is 'stop'" in outcome.message
    assert [step.step for step in folder.steps(ATTEMPT).records] == [1]
