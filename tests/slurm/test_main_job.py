"""The main job on a real multi-node Slurm: submit, watch, collect."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1000)]

_THREE_STRATEGIES = """
schema = 1
workload = "mlp"
strategies = ["ddp", "hybrid", "pp"]
nodes = [1, 2, 4]
ranks_per_node = 1
global_batch = 64
steps = 24
warmup_steps = 4
repeats = 3
"""


def _finished(status: dict[str, Any]) -> bool:
    return all(row["state"] in ("done", "failed") for row in status["rows"])


def test_a_study_goes_from_submit_to_a_scaling_table(slurm: Any, tmp_path: Path, counted: Any) -> None:
    environment = {"PATH": counted.path}
    slurm.hpcpar(
        *("submit", "--cluster", "slurm-test", "--workload", "mlp", "--strategy", "ddp", "hybrid", "--nodes", "1", "2"),
        *("--steps", "24", "--warmup-steps", "4", "--repeats", "1", "--runs", str(tmp_path / "runs")),
        env=environment,
    )
    assert counted()["sbatch"] == 2, "one sbatch for each shape, whatever the number of strategies"
    status = slurm.status(tmp_path / "runs", env=environment)
    assert len(status["rows"]) == 4
    calls = counted()
    assert calls["squeue"] == 1
    assert calls["sacct"] <= 1
    status = slurm.wait(tmp_path / "runs", _finished, 240)
    assert status["counts"] == {"done": 4}, status
    slurm.status(tmp_path / "runs", env=environment)
    assert counted() == {"sbatch": 0, "squeue": 0, "sacct": 0}, "all have ended: nobody need be asked"
    _check_tables(slurm, tmp_path / "runs", cells=4, repeats=1)
    again = slurm.hpcpar(
        *("submit", "--cluster", "slurm-test", "--workload", "mlp", "--strategy", "ddp", "hybrid", "--nodes", "1", "2"),
        *("--steps", "24", "--warmup-steps", "4", "--repeats", "1", "--runs", str(tmp_path / "runs")),
        env=environment,
    )
    assert counted()["sbatch"] == 0
    assert "left out: 4 done" in again.stderr


_DEEPSPEED = ("deepspeed-zero", "deepspeed-tp", "deepspeed-pp") if importlib.util.find_spec("deepspeed") else ()
_ON_FOUR_NODES = ("ddp", "fsdp", "tp", "cp", "pp", "hybrid", "localsgd", "async", *_DEEPSPEED)
_ONE_PROCESS = ("single", "dp", "layerwise")


@pytest.mark.full
def test_every_strategy_of_several_processes_runs_on_four_nodes(slurm: Any, tmp_path: Path) -> None:
    layout = ("--nodes", "4", "--ranks-per-node", "1", "--runs", str(tmp_path))
    sizes = ("--workload", "llama-tiny", "--global-batch", "16", "--steps", "4")
    options = ("--set", "layers=4", "--set", "kv_heads=4")
    cluster = ("submit", "--cluster", "slurm-test", *layout)
    submit = (*cluster, *sizes, *options)
    refused = slurm.hpcpar(*submit, "--strategy", *_ONE_PROCESS, code=2)
    for name in _ONE_PROCESS:
        assert f"{name} is one process, this world has 4 x 1 ranks: choose one node" in refused.stderr
    assert list(tmp_path.iterdir()) == []
    slurm.hpcpar(*submit, "--strategy", *_ON_FOUR_NODES)
    slurm.hpcpar(*cluster, "--workload", "llama-moe", "--strategy", "ep", "--set", "layers=2", "--steps", "4")
    status = slurm.wait(tmp_path, _finished, 600)
    assert {row["strategy"]: (row["state"], row["step"]) for row in status["rows"]} == dict.fromkeys(
        (*_ON_FOUR_NODES, "ep"), ("done", 4)
    )


def _check_tables(slurm: Any, runs: Path, cells: int, repeats: int) -> None:
    done = slurm.hpcpar("collect", str(runs), "--format", "json")
    answer = json.loads(done.stdout)
    rows = [cell for table in answer["tables"] for cell in table["rows"]]
    assert len(rows) == cells
    for row in rows:
        assert row["runs_ok"] == repeats
        assert row["speedup"] is not None
        assert row["efficiency"] is not None
        # All nodes of this cluster are one machine with fewer CPUs than ranks: that must be said of every row.
        assert row["flags"], row
    markdown = slurm.hpcpar("collect", str(runs), "--format", "md").stdout
    assert "Strong scaling of mlp on slurm-test" in markdown


@pytest.mark.full
def test_three_strategies_on_three_sizes_with_and_without_accounting(slurm: Any, tmp_path: Path, counted: Any) -> None:
    study = tmp_path / "three.toml"
    study.write_text(_THREE_STRATEGIES)
    _submit_and_collect_three(slurm, tmp_path / "with", study, counted)
    slurm.script("stop-accounting")
    try:
        _submit_and_collect_three(slurm, tmp_path / "without", study, counted)
    finally:
        slurm.script("start-accounting")


def _submit_and_collect_three(slurm: Any, runs: Path, study: Path, counted: Any) -> None:
    slurm.hpcpar("submit", str(study), "--cluster", "slurm-test", "--runs", str(runs), env={"PATH": counted.path})
    assert counted()["sbatch"] == 3, "at most 3 for each strategy are allowed; runs of one shape share an array"
    status = slurm.wait(runs, _finished, 540)
    assert status["counts"] == {"done": 27}, status
    _check_tables(slurm, runs, cells=9, repeats=3)


def test_a_study_runs_with_accounting_stopped(slurm: Any, tmp_path: Path) -> None:
    slurm.script("stop-accounting")
    try:
        slurm.hpcpar(
            *("submit", "--cluster", "slurm-test", "--workload", "mlp", "--strategy", "ddp", "--nodes", "2"),
            *("--steps", "10", "--repeats", "2", "--runs", str(tmp_path)),
        )
        status = slurm.wait(tmp_path, _finished, 120)
    finally:
        slurm.script("start-accounting")
    assert status["counts"] == {"done": 2}, status


def test_every_rank_says_which_cpus_it_may_use(slurm: Any, tmp_path: Path) -> None:
    slurm.hpcpar(
        *("submit", "--cluster", "slurm-test", "--workload", "mlp", "--strategy", "ddp", "--nodes", "2"),
        *("--steps", "5", "--runs", str(tmp_path)),
    )
    status = slurm.wait(tmp_path, _finished)
    record = json.loads((Path(status["rows"][0]["folder"]) / "record.json").read_text())
    assert [rank["cpus_asked"] for rank in record["ranks"]] == [1] * 4
    assert all(rank["usable_cpus"] >= 1 for rank in record["ranks"])
    assert len({rank["host"] for rank in record["ranks"]}) == 2, "two nodes have two names"
    assert len({rank["boot_id"] for rank in record["ranks"]}) == 1, "and are one machine"
