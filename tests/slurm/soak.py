"""Many short runs through a real Slurm while things break at random; in the end every run is accounted for.

    make soak                       1,000 runs (about a second of one processor each, and the faults)
    make soak RUNS=50 SEED=7

The runs are of one study, in one array, with a policy that retries what broke. Every few seconds one thing breaks: a
rank is killed, a job is requeued, a node goes down, the controller is killed.
Exit code 1: a run is not done, its result is not made of every step once, or the queue still holds something.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import faults
from faults import Arena, Processes

STUDY = """
name = "soak"
cluster = "slurm-test"
workload = "clockwork"
strategies = ["clockwork"]
ranks_per_node = 1
steps = 20
warmup_steps = 5
repeats = {runs}
time = "5m"
[policy]
killed = {{ retry = 20 }}
network = {{ retry = 20 }}
node_fail = {{ retry = 20 }}
launch = {{ retry = 20 }}
vanished = {{ retry = 20 }}
"""
PAUSE_S = (3.0, 9.0)
"""Between two faults."""
DRAIN_S = 60.0


def main() -> int:
    """Run, break, account."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=120.0, help="give up then")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="hpcpar-soak-"))
    slurm = faults.new_cluster()
    code = 1
    try:
        # Two ranks a node at a time: eight processes in all.
        slurm.script("up", "--nodes", "4", "--cpus", "2", "--slurmd-timeout", "10", timeout=120)
        (place / "soak.toml").write_text(STUDY.format(runs=given.runs))
        slurm.hpcpar("submit", str(place / "soak.toml"), "--runs", str(place / "runs"))
        arena = Arena(slurm, place / "runs")
        broken = _soak(arena, random.Random(given.seed), given.minutes * 60)
        code = _account(arena, given.runs, broken)
    finally:
        slurm.script("down", timeout=120)
        shutil.rmtree(slurm.folder, ignore_errors=True)
        if code == 0:
            shutil.rmtree(place, ignore_errors=True)
        else:
            print(f"the runs are left in {place}")
    return code


def _soak(arena: Arena, chance: random.Random, patience_s: float) -> Counter[str]:
    """Break things until all runs are done; return what broke how often."""
    broken: Counter[str] = Counter()
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        status = arena.status()
        print(f"{time.strftime('%H:%M:%S')} {status['counts']} broken so far: {dict(broken)}", flush=True)
        if set(status["counts"]) == {"done"}:
            break
        running = [row for row in status["rows"] if row["state"] == "running"]
        if running:
            deed = chance.choice(DEEDS)
            broken[deed.__name__.strip("_")] += 1
            deed(arena, chance.choice(running), chance)
        time.sleep(chance.uniform(*PAUSE_S))
    return broken


def _kill_a_rank(arena: Arena, row: dict[str, Any], chance: random.Random) -> None:
    for pid in Processes.ranks(row["run"], 0):
        with contextlib.suppress(ProcessLookupError):  # it has ended since the look
            os.kill(pid, signal.SIGKILL)


def _requeue_a_job(arena: Arena, row: dict[str, Any], chance: random.Random) -> None:
    # It may have ended since the look: then Slurm refuses.
    arena.slurm.run("scontrol", "update", f"JobId={row['job_id']}", "Requeue=1", code=None)
    arena.slurm.run("scontrol", "requeue", row["job_id"], code=None)


def _take_a_node_down(arena: Arena, row: dict[str, Any], chance: random.Random) -> None:
    node = f"NodeName=n{chance.randint(1, 4)}"
    arena.slurm.run("scontrol", "update", node, "State=DOWN", "Reason=soak")
    arena.slurm.run("scontrol", "update", node, "State=RESUME", code=None)


def _kill_the_controller(arena: Arena, row: dict[str, Any], chance: random.Random) -> None:
    os.kill(arena.daemon("slurmctld"), signal.SIGKILL)
    arena.slurm.script("start-controller", timeout=120)


DEEDS = (_kill_a_rank, _kill_a_rank, _requeue_a_job, _requeue_a_job, _take_a_node_down, _kill_the_controller)


def _account(arena: Arena, runs: int, broken: Counter[str]) -> int:
    rows = arena.status()["rows"]
    states = Counter(row["state"] for row in rows)
    wrong = [row["run"] for row in rows if row["state"] == "done" and not _is_once(Path(row["folder"]))]
    again = sum(row["attempts"] > 1 for row in rows)
    left = _drained(arena)
    print(f"{runs} runs, {sum(broken.values())} faults ({dict(broken)}): {dict(states)};")
    for line in [*(f"not every step once: {name}" for name in wrong), *(f"left: {job}" for job in left)]:
        print(line)
    print(
        f"{again} runs had more than one attempt; {len(wrong)} are not made of every step once; {len(left)} jobs left"
    )
    return int(states != {"done": runs} or bool(wrong) or bool(left))


def _drained(arena: Arena) -> list[str]:
    """Return what the queue still holds: a run has its result before its job has ended."""
    end = time.monotonic() + DRAIN_S
    while (left := arena.slurm.jobs()) and time.monotonic() < end:
        time.sleep(1)
    return left


def _is_once(path: Path) -> bool:
    return [step.step for step in faults.kept(faults.RunFolder(path))] == list(range(1, 21))


if __name__ == "__main__":
    sys.exit(main())
