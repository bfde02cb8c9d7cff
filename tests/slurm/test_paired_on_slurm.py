"""Runs that share a job, and a user who keeps to a number of jobs in the queue, on a real Slurm."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.runs import StudyFolder

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(1500)]

_PAIRED = """
name = "paired"
cluster = "slurm-test"
workload = "mlp"
strategies = ["ddp", "fsdp", "pp"]
nodes = [2]
ranks_per_node = 1
global_batch = 64
steps = 12
warmup_steps = 2
repeats = 2
time = "10m"
paired = true
"""


def test_runs_of_a_pair_are_on_the_same_nodes_one_after_the_other(slurm: Any, tmp_path: Path, counted: Any) -> None:
    (tmp_path / "study.toml").write_text(_PAIRED)
    slurm.hpcpar("submit", str(tmp_path / "study.toml"), "--runs", str(tmp_path / "runs"), env={"PATH": counted.path})
    assert counted()["sbatch"] == 1
    assert len(slurm.jobs()) == 2, "two repeats are two jobs, whatever the number of strategies"
    status = slurm.wait(tmp_path / "runs", lambda found: set(found["counts"]) == {"done"}, 900)
    assert status["counts"] == {"done": 6}
    by_pair = defaultdict(list)
    for run in StudyFolder(tmp_path / "runs" / "paired").runs():
        spec, record = run.spec(), run.record()
        assert spec is not None
        assert record is not None
        by_pair[reduce_run(run).pair].append((spec.order, spec.identity.strategy, record))
    assert len(by_pair) == 2
    for members in by_pair.values():
        members.sort(key=lambda one: one[0])
        assert sorted(strategy for _, strategy, _ in members) == ["ddp", "fsdp", "pp"]
        assert len({tuple(fact.host for fact in record.ranks) for _, _, record in members}) == 1
        assert len({record.attempt for _, _, record in members}) == 1
        spans = [(record.started, record.ended) for _, _, record in members]
        assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(spans)), spans


def test_no_more_than_so_many_jobs_are_in_the_queue_at_a_time(slurm: Any, tmp_path: Path) -> None:
    words = ("--workload", "clockwork", "--strategy", "clockwork", "--ranks-per-node", "1", "--steps", "5")
    more = ("--warmup-steps", "1", "--repeats", "6", "--max-queued", "2", "--runs", str(tmp_path))
    slurm.hpcpar("submit", "--cluster", "slurm-test", *words, *more)
    seen = []

    def looked(status: dict[str, Any]) -> bool:
        seen.append(len(slurm.jobs()))
        return status["counts"] == {"done": 6}

    slurm.wait(tmp_path, looked, 600)
    assert 0 < max(seen) <= 2, seen
    (study,) = tmp_path.iterdir()
    names = [name for batch in StudyFolder(study).batches() for name in batch.read().runs.values()]
    assert len(names) == len(set(names)) == 6
