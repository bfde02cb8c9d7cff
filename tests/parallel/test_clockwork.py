"""clockwork on the local queue: from submit to the tables, and the times are those that were wound up."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hpcpar import registry
from hpcpar.cli import main
from hpcpar.runs import find_studies
from hpcpar.worker.strategies.clockwork import ClockworkStrategyOptions, ClockworkTrainer
from hpcpar.worker.workloads.clockwork import ClockworkOptions, Movement, scatter

STUDY = """
schema = 1
workload = "clockwork"
workload_options = { serial_s = 0.004, sample_s = 0.0005, talk_s = 0.002, noise = 0.05 }
strategies = [{ name = "clockwork", options = { factor = 1.5 } }]
nodes = [1, 2]
global_batch = 32
steps = 8
warmup_steps = 2
"""


def test_submit_status_and_collect_work_on_it(
    tmp_path: Path, isolation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    assert main(["submit", str(tmp_path / "study.toml"), "--cluster", "local", "--wait"]) == 0
    capsys.readouterr()
    assert main(["collect", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    cells = answer["tables"][0]["rows"]
    assert [(cell["nodes"], cell["runs_ok"], cell["evidence"]) for cell in cells] == [(1, 1, True), (2, 1, True)]
    assert not any(cell["oversubscribed"] for cell in cells)
    assert [law["reason"] for law in answer["laws"]] == [
        "not enough points: 2 sizes with evidence, 4 are the least",
        "not enough points: 2 sizes with evidence, 6 are the least",
    ]
    (study,) = find_studies(isolation / "runs")
    for run in study.runs():
        spec, record = run.spec(), run.record()
        assert spec is not None
        assert record is not None
        exact_s = 0.004 + 0.0005 * 32 / spec.identity.nodes + 0.002 * (spec.identity.nodes - 1)
        wound_s = 1.5 * exact_s * scatter(f"{spec.key} run", 0.05)
        steps = run.steps(record.attempt).records
        assert len(steps) == 8
        # A sleep is never too short; how much too long it is depends on the machine, and is no finding here.
        assert all(step.time_min_s >= wound_s for step in steps)


def test_the_noise_is_normal_and_the_same_for_the_same_word() -> None:
    drawn = np.log([scatter(f"run {number}", 0.02) for number in range(5000)])

    assert stats.kstest(drawn / 0.02, "norm").pvalue > 0.01
    assert scatter("run 1", 0.02) == scatter("run 1", 0.02)
    assert scatter("run 1", 0.0) == 1.0


def test_the_law_of_a_step_is_the_universal_scalability_law() -> None:
    options = ClockworkOptions(serial_s=0.08, sample_s=0.016, talk_s=0.012)
    movement, batch = Movement(options), 48
    at_1 = 0.08 + 0.016 * batch
    for ranks in (1, 2, 3, 4, 6, 8):
        usl = ranks / (1 + 0.08 / at_1 * (ranks - 1) + 0.012 / at_1 * ranks * (ranks - 1))
        assert movement.step_s(ranks, batch) == pytest.approx(at_1 / usl)


class _Context:
    class identity:  # noqa: N801
        world_size, global_batch = 2, 10

        @staticmethod
        def key() -> str:
            return "abc"


def test_the_jitter_of_steps_is_about_the_time_of_the_run() -> None:
    workload = Movement(ClockworkOptions(serial_s=0.01, sample_s=0.0, talk_s=0.0, noise=0.0, jitter=0.1))
    trainer = ClockworkTrainer(_Context, workload, ClockworkStrategyOptions())
    logs = [math.log(trainer.batch(step) / 0.01) for step in range(1, 2001)]

    assert np.mean(logs) == pytest.approx(0, abs=3 * 0.1 / math.sqrt(2000))
    assert np.std(logs) == pytest.approx(0.1, rel=0.1)


def test_steps_of_no_time_are_refused() -> None:
    (problem,) = registry.get_workload("clockwork").check(ClockworkOptions(serial_s=0, sample_s=0))

    assert problem.what == "serial_s and sample_s are both 0: a step takes no time"


def test_nothing_else_runs_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["submit", "--cluster", "local", "--workload", "clockwork", "--strategy", "ddp", "--dry-run"]
    assert main(words) == 2

    error = capsys.readouterr().err
    assert "strategy ddp: cannot run workload clockwork (it is of the kind 'clockwork')" in error
    assert "strategies that can: clockwork" in error
