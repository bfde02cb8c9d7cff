"""What submitting 1,000 runs of one shape costs, beside one raw `sbatch --array` and beside submitit one by one.

    python benchmarks/submit.py          (starts a Slurm of its own; what `make bench-submit` calls)

Nothing runs: the partition is down, so that jobs are taken and wait. The three are interleaved in every round: an array
of a one-line script, `hpcpar submit`, and a few submissions through submitit's own executor, whose time a job is scaled
to 1,000. Exit code 1: more than 1.5 times the raw array plus half a second, or less than 50 times as fast as submitit.

What hpcpar wrote is written once more by a bare loop, which is not judged: it says what the file system takes.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from hpcpar.storage import sync

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "slurm-cluster"
RUNS, ONE_BY_ONE = 1000, 10
ALLOWED_FACTOR, ALLOWED_S, FASTER = 1.5, 0.5, 50.0
BUSY = 1.5
"""A submit that takes so many times the processor time of its processes was kept waiting, mostly by others."""
_SETTLE_S = 60.0
_SUBMITIT = """
import sys, time, submitit
executor = submitit.SlurmExecutor(folder=sys.argv[1])
executor.update_parameters(time=5)
begun = time.perf_counter()
for _ in range(int(sys.argv[2])):
    executor.submit(print, 1)
print(time.perf_counter() - begun)
"""


class Cost(NamedTuple):
    """Seconds of one call."""

    wall_s: float
    cpu_s: float
    """Of its processes, user and system."""

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)


class Cluster:
    """A Slurm of its own, on whose login node commands are run."""

    def __init__(self, folder: Path, state: Path) -> None:
        # As installed: with bytecode, whatever the caller's shell says.
        keep = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.environment = {**keep, "HPCPAR_SLURM_DIR": str(folder), "HPCPAR_STATE": str(state)}

    def run(self, *command: str) -> tuple[Cost, str]:
        """Call slurm-cluster; return what it took and what it printed."""
        before, begun = _children_s(), time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *command],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        cost = Cost(time.perf_counter() - begun, _children_s() - before)
        if done.returncode:
            raise SystemExit(f"{command}: {done.stderr}")
        return cost, done.stdout

    def clear(self) -> None:
        """Cancel all jobs, and wait until controller and accounting are done with that: both answer slowly before."""
        user = "--user=root" if os.getuid() == 0 else f"--user={os.environ['USER']}"
        self.run("exec", "scancel", user, "--quiet")
        end = time.monotonic() + _SETTLE_S
        while self.run("exec", "squeue", "--noheader")[1].strip() or not self._accounted():
            if time.monotonic() > end:
                raise SystemExit(f"cancelled jobs are still there after {_SETTLE_S:.0f} s")
            time.sleep(0.1)

    def _accounted(self) -> bool:
        lines = self.run("exec", "sdiag")[1].splitlines()
        return any(line.split() == ["DBD", "Agent", "queue", "size:", "0"] for line in lines)


def main() -> int:
    """Start a cluster, measure, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    place = Path(tempfile.mkdtemp(prefix="hpcpar-submit-"))
    folder = Path(tempfile.mkdtemp(prefix="hps-", dir="/tmp"))
    cluster = Cluster(folder, place / "state")
    try:
        cluster.run("up", "--nodes", "2")
        cluster.run("exec", "scontrol", "update", "PartitionName=main", "State=DOWN")
        cluster.run("exec", *_hpcpar(place / "first", 1))  # the bytecode of a checkout is written here
        cluster.clear()
        costs: dict[str, list[Cost]] = {name: [] for name in ("raw", "hpcpar", "bare", "submitit")}
        for number in range(rounds):
            _round(cluster, place / f"{number}", costs)
            cluster.clear()
        return _judge(costs)
    finally:
        cluster.run("down")
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def _round(cluster: Cluster, place: Path, costs: dict[str, list[Cost]]) -> None:
    way_in = cluster.run("exec", "true")[0]
    array = ("sbatch", f"--array=0-{RUNS - 1}", "--output=/dev/null", "--wrap=true")
    costs["raw"].append(cluster.run("exec", *array)[0] - way_in)
    costs["hpcpar"].append(cluster.run("exec", *_hpcpar(place / "runs", RUNS))[0] - way_in)
    costs["bare"].append(_bare(place / "runs", place / "bare"))
    one = (sys.executable, "-c", _SUBMITIT, str(place / "submitit"), str(ONE_BY_ONE))
    cost, printed = cluster.run("exec", *one)
    costs["submitit"].append(Cost(float(printed), cost.cpu_s))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _hpcpar(runs: Path, repeats: int) -> list[str]:
    size = ["--nodes", "1", "--ranks-per-node", "1", "--repeats", str(repeats)]
    what = ["--cluster", "slurm-test", "--workload", "mlp", "--strategy", "single"]
    return [sys.executable, "-m", "hpcpar", "submit", *what, *size, "--runs", str(runs)]


def _bare(runs: Path, copy: Path) -> Cost:
    """Write the files of the runs once more, as a loop that does nothing else would, and wait for the disk."""
    files = [(path.relative_to(runs), path.read_bytes()) for path in runs.glob("*/*-r*/*.json*")]
    assert len(files) == 2 * RUNS, f"{len(files)} files of {RUNS} runs"
    folders = {copy / name.parent for name, _ in files}
    next(iter(folders)).parent.mkdir(parents=True)
    begun, cpu_s = time.perf_counter(), time.process_time()
    for folder in folders:
        folder.mkdir()
    for name, content in files:
        (copy / name).write_bytes(content)
    sync(copy)
    return Cost(time.perf_counter() - begun, time.process_time() - cpu_s)


def _judge(costs: dict[str, list[Cost]]) -> int:
    middle = {name: Cost(*map(statistics.median, zip(*found, strict=True))) for name, found in costs.items()}
    raw, ours, bare = middle["raw"], middle["hpcpar"], middle["bare"]
    allowed_s = ALLOWED_FACTOR * raw.wall_s + ALLOWED_S
    submitit_s = middle["submitit"].wall_s * RUNS / ONE_BY_ONE
    print(f"{RUNS} runs of one shape, medians of {len(costs['raw'])} rounds, without the way to the login node")
    print("                                 wall         cpu")
    print(f"  one raw sbatch --array   {raw.wall_s:8.3f} s  {raw.cpu_s:8.3f} s")
    print(f"  hpcpar submit            {ours.wall_s:8.3f} s  {ours.cpu_s:8.3f} s   allowed: {allowed_s:.3f} s of wall")
    print(f"  its runs' files, bare    {bare.wall_s:8.3f} s  {bare.cpu_s:8.3f} s   not judged")
    times = submitit_s / ours.wall_s
    print(f"  submitit, one by one     {submitit_s:8.1f} s  ({ONE_BY_ONE} measured): {times:.0f} times as long")
    if ours.wall_s > BUSY * ours.cpu_s:
        print("the machine was busy, or its disk: wall times are too long; cpu is what the processes themselves used")
    return int(ours.wall_s > allowed_s or submitit_s < FASTER * ours.wall_s)


if __name__ == "__main__":
    sys.exit(main())
