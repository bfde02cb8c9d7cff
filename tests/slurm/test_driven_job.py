"""A driver and its workers on a real Slurm: from submit to the table, and what is left when one of them is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xgboost", reason="xgboost is not installed (pip install 'hpcpar[xgboost-cpu]')")
pytest.importorskip("dask_jobqueue", reason="Dask is not installed (pip install 'hpcpar[dask]')")
pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(1000)]

STUDY = (
    "submit",
    "--cluster",
    "slurm-test",
    "--workload",
    "xgboost",
    "--strategy",
    "xgb-dask",
    "--ranks-per-node",
    "1",
)
SMALL = ("--global-batch", "20000", "--set", "levels=8", "--set", "evaluation_rows=4000", "--set", "max_depth=4")
WITHIN_S = 60
"""In which nothing may be left of a driver that was killed."""


def test_the_driver_scales_over_nodes_and_leaves_nothing_behind(slurm: Any, tmp_path: Path) -> None:
    home, runs = tmp_path / "home", tmp_path / "runs"
    home.mkdir()
    grid = ("--nodes", "1", "2", "4", "--repeats", "3", "--steps", "8", "--warmup-steps", "2")
    slurm.hpcpar(*STUDY, *SMALL, *grid, "--runs", str(runs), env={"HOME": str(home)})
    status = slurm.wait(runs, lambda said: all(row["state"] in ("done", "failed") for row in said["rows"]), 700)
    assert status["counts"] == {"done": 9}, status
    answer = json.loads(slurm.hpcpar("collect", str(runs), "--format", "json").stdout)
    (table,) = answer["tables"]
    assert [(row["nodes"], row["runs_ok"]) for row in table["rows"]] == [(1, 3), (2, 3), (4, 3)]
    losses = [row[name] for row in table["rows"] for name in ("loss_last_min", "loss_last_max")]
    assert losses == pytest.approx([losses[0]] * 6, abs=1e-6), "values that are bins of their own: the same decisions"
    slurm.wait(runs, lambda _: not slurm.jobs(), 60)
    assert [path for path in home.rglob("*") if path.is_file() and "dask" in str(path)] == []
    for run in (Path(row["folder"]) for row in status["rows"]):
        record = json.loads((run / "record.json").read_text())
        hosts = [rank["host"] for rank in record["ranks"]]
        assert len(set(hosts)) == len(hosts) == json.loads((run / "spec.json").read_text())["identity"]["nodes"]
        assert len(list((run / "logs").glob("*.w-0.*.log"))) == len(hosts) + 1, "of each worker, and of their job"
        assert not list(run.glob("fleet.*")), "keys and scratch files are gone"


class Driven:
    """A long run whose driver works."""

    def __init__(self, slurm: Any, runs: Path) -> None:
        self.slurm, self.runs = slurm, runs

    def submit(self, nodes: int) -> None:
        more = ("--nodes", str(nodes), "--steps", "1000000", "--time", "10m")
        self.slurm.hpcpar(*STUDY, *SMALL, *more, "--runs", str(self.runs))

    def begun(self) -> dict[str, Any]:
        return self.until(lambda row: row["state"] == "running" and row["step"] > 0)

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        status = self.slurm.wait(self.runs, lambda said: holds(said["rows"][0]))
        row: dict[str, Any] = status["rows"][0]
        return row

    def workers(self, state: str) -> list[str]:
        return [line for line in self.slurm.jobs() if line.startswith("hpcpar-workers-") and line.endswith(state)]

    def no_workers_are_left(self, since: float) -> None:
        self.slurm.wait(self.runs, lambda _: not self.workers(""), WITHIN_S - (time.monotonic() - since))

    def nothing_is_left(self, since: float) -> None:
        self.slurm.wait(self.runs, lambda _: not self.slurm.jobs(), WITHIN_S - (time.monotonic() - since))


@pytest.fixture
def driven(slurm: Any, tmp_path: Path) -> Driven:
    return Driven(slurm, tmp_path)


def processes(*words: str) -> Iterator[int]:
    """Find processes by their command line; those of all nodes can be seen from here."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if all(word in line for word in words) and "srun" not in line.split(" ", 1)[0]:
                yield int(entry.name)


def kill(*words: str) -> None:
    victims = list(processes(*words))
    assert victims, words
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):  # it went with another one
            os.kill(pid, signal.SIGKILL)


def test_a_driver_that_is_killed_leaves_no_workers(driven: Driven) -> None:
    driven.submit(2)
    run = driven.begun()["run"]
    since = time.monotonic()
    kill("-m hpcpar.worker ", run)
    driven.nothing_is_left(since)
    row = driven.until(lambda row: row["state"] == "failed")
    assert row["cause"] == "killed", row


def test_a_driver_that_is_killed_leaves_no_workers_that_wait(driven: Driven) -> None:
    busy = ("--nodelist=n4", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 600")
    driven.slurm.run("sbatch", *busy)
    driven.submit(4)
    driven.slurm.wait(driven.runs, lambda _: bool(driven.workers("PENDING")))
    since = time.monotonic()
    kill("-m hpcpar.worker ", str(driven.runs))
    driven.no_workers_are_left(since)


def test_a_driver_that_is_cancelled_takes_its_workers_along(driven: Driven) -> None:
    driven.submit(2)
    driven.begun()
    since = time.monotonic()
    driven.slurm.hpcpar("cancel", str(driven.runs))
    driven.nothing_is_left(since)
    assert driven.until(lambda row: row["state"] == "failed")["cause"] == "cancelled"


def test_workers_end_by_themselves_when_the_whole_job_of_the_driver_is_gone(driven: Driven) -> None:
    """Killed: the job's script, the driver, and what Slurm puts around them, so that nobody can cancel anything."""
    driven.submit(2)
    row = driven.begun()
    since = time.monotonic()
    kill(f"job{int(row['job_id']):05d}/slurm_script")
    kill("slurmstepd", f"[{row['job_id']}.")
    kill("-m hpcpar.worker ", row["run"])
    driven.no_workers_are_left(since)


def test_a_worker_that_is_lost_ends_the_run_with_a_cause(driven: Driven) -> None:
    driven.submit(2)
    run = driven.begun()["run"]
    since = time.monotonic()
    victim = max(processes("-m hpcpar.worker.fleet.member", run))
    os.kill(victim, signal.SIGKILL)
    row = driven.until(lambda row: row["state"] == "failed")
    assert time.monotonic() - since < WITHIN_S
    assert row["cause"] == "network", row
    assert "lost: their job ended, a node failed, or a worker was killed" in row["note"]
    driven.nothing_is_left(since)
