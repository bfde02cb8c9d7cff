"""A driver's job and its workers': two scripts out of one profile, and a driver's script that ends its workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hpcpar.cli import main

STUDY = ("submit", "--workload", "xgboost", "--strategy", "xgb-dask", "--nodes", "4", "--dry-run", "--json")


def batches(capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    assert main([*STUDY, *more]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["batches"]
    return found


def directives(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}


def test_the_driver_is_one_process_and_its_workers_have_what_the_study_asks_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = (
        "--ranks-per-node",
        "1",
        "--cpus-per-rank",
        "3",
        "--repeats",
        "3",
        "--account",
        "lab",
        "--partition",
        "main",
    )
    (batch,) = batches(capsys, "--cluster", "slurm-test", *more)
    driver, workers = directives(batch["script"]), directives(batch["worker_script"])
    assert {"--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1"} <= driver
    assert {"--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=3"} <= workers
    assert "srun --nodes=4 --ntasks=4 --ntasks-per-node=1 --cpus-per-task=3" in batch["worker_script"]
    assert {"--account=lab", "--partition=main", "--time=00:05:00"} <= driver & workers
    assert "--array=0-2%1" in driver, "drivers that wait must not hold the nodes that they wait for"
    assert not any(word.startswith("--array") for word in workers)
    assert [run["identity"]["nodes"] for run in batch["runs"]] == [4, 4, 4]


def test_workers_that_leave_no_cpu_for_their_driver_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """They would wait for it to end, and it for them."""
    whole = ("--cluster", "slurm-test", "--ranks-per-node", "2", "--cpus-per-rank", "2")
    assert main([*STUDY, *whole]) == 2
    said = capsys.readouterr().err
    assert "the workers take every CPU (4 on each node), and their driver needs one as well" in said
    batches(capsys, *whole[:-1], "1")


def test_what_a_site_says_holds_for_the_workers_too(capsys: pytest.CaptureFixture[str]) -> None:
    (batch,) = batches(capsys, "--cluster", "perlmutter", "--account", "m1")
    driver, workers = batch["script"].splitlines(), batch["worker_script"].splitlines()
    for kind in ("module load", "#SBATCH --constraint", "#SBATCH --qos"):
        said = [line for line in driver if line.startswith(kind)]
        assert said, kind
        assert said == [line for line in workers if line.startswith(kind)]
    assert not any("gpus" in line for line in driver), "a driver computes nothing"
    assert any("--gpus-per-node=4" in line for line in workers)


def test_a_template_of_the_users_own_is_the_workers_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "templates" / "sbatch.sh.j2"
    mine.parent.mkdir()
    mine.write_text('{% extends "builtin/sbatch.sh.j2" %}\n{% block modules %}{{ super() }}echo mine\n{% endblock %}\n')
    monkeypatch.setenv("HPCPAR_PATH", str(tmp_path))
    (batch,) = batches(capsys, "--cluster", "slurm-test")
    assert "echo mine" in batch["script"].splitlines()
    assert "echo mine" in batch["worker_script"].splitlines()


def test_on_this_machine_there_is_no_second_job(capsys: pytest.CaptureFixture[str]) -> None:
    (batch,) = batches(capsys, "--cluster", "local")
    assert "worker_script" not in batch
    assert "--nodes 1 --ranks-per-node 1 " in batch["script"]
    assert "scancel" not in batch["script"]


# ---------------------------------------------------------------- under a real bash


class Commands:
    """Stand-ins for Slurm's commands that write down how they were called."""

    def __init__(self, folder: Path, srun: str) -> None:
        self.calls = folder / "calls"
        place = folder / "bin"
        place.mkdir()
        for name, body in {"srun": srun, "scancel": "true"}.items():
            command = place / name
            command.write_text(f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >>{self.calls}\n{body}\n')
            command.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{place}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "77",
            "SLURM_RESTART_COUNT": "1",
        }

    def said(self, name: str) -> list[str]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if line.startswith(name)]


ENDED = f"scancel --quiet --user={os.getuid()} --name=hpcpar-workers-77"


def script_of(capsys: pytest.CaptureFixture[str], tmp_path: Path, which: str) -> str:
    (batch,) = batches(capsys, "--cluster", "slurm-test", "--runs", str(tmp_path / "runs"))
    text: str = batch[which]
    return text


def test_the_workers_are_ended_before_the_driver_begins_and_after_it_was_killed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    commands = Commands(tmp_path, "exit 137")
    script = script_of(capsys, tmp_path, "script")
    done = subprocess.run(["bash", "-c", script], env=commands.environment, check=False, timeout=30)
    assert done.returncode == 137
    assert commands.said("scancel") == [ENDED, ENDED]
    assert '"kind":"script_exit","data":{"code":137}' in next(tmp_path.rglob("events.77.1.jsonl")).read_text()


def test_a_script_that_is_told_to_end_ends_the_workers_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    begun, told = tmp_path / "begun", tmp_path / "told"
    waiting = f'{sys.executable} -c \'import pathlib, time\npathlib.Path("{begun}").touch()'
    waiting += f'\nwhile not pathlib.Path("{told}").exists(): time.sleep(0.01)\'; exit 143'
    commands = Commands(tmp_path, waiting)
    script = script_of(capsys, tmp_path, "script")
    job = subprocess.Popen(["bash", "-c", script], env=commands.environment)
    try:
        end = time.monotonic() + 20
        while not begun.exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)  # to the script alone, as scancel does; the driver ends a moment later
        told.touch()
        assert job.wait(20) == 143
    finally:
        job.kill()
    assert commands.said("scancel") == [ENDED, ENDED]


def test_the_workers_script_hands_run_attempt_and_name_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    commands = Commands(tmp_path, 'printf "%s\\n" "attempt $HPCPAR_ATTEMPT" >>"${0%/bin/srun}/calls"; exit 3')
    script = tmp_path / "worker.sh"
    script.write_text(script_of(capsys, tmp_path, "worker_script"))
    run_folder = tmp_path / "runs" / "xgboost-strong" / "abc-r1"
    run_folder.mkdir(parents=True)
    (run_folder / "events.4711_2.0.jsonl").touch()  # the driver has begun
    words = ["bash", str(script), "abc-r1", "4711_2.0", "w-0"]
    assert subprocess.run(words, env=commands.environment, check=False, timeout=30).returncode == 3
    (call,) = commands.said("srun")
    assert call.endswith(f"-m hpcpar.worker.fleet.member {run_folder} w-0")
    assert f"--output={run_folder}/logs/4711_2.0.w-0.%t.log" in call
    assert commands.said("attempt") == ["attempt 4711_2.0"]
    without = subprocess.run(["bash", str(script)], env=commands.environment, check=False, timeout=30, stderr=-1)
    assert without.returncode != 0
    assert b"given by its driver" in without.stderr


def test_a_gpu_that_the_nodes_do_not_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("submit", "--workload", "xgboost", "--strategy", "xgb-collective", "--set", "device=cuda", "--dry-run")
    assert main([*words, "--cluster", "slurm-test", "--nodes", "2"]) == 2
    assert "'cuda', but the nodes 'cpu' of slurm-test have no GPUs" in capsys.readouterr().err
    assert main([*words, "--cluster", "perlmutter", "--account", "m1", "--nodes", "2"]) == 0
