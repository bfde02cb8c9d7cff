"""What submitting 1,000 runs of one shape costs, beside one raw `sbatch --array` and beside submitit one by one.

    python benchmarks/submit.py          (starts a Slurm of its own; what `make bench-submit` calls)

Nothing runs: the partition is down, so that jobs are taken and wait. The three are interleaved in every round: an array
of a one-line script, `hpcpar submit`, and a few submissions through submitit's own executor, whose time a job is scaled
to 1,000. Exit code 1: more than 1.5 times the raw array plus half a second, or less than 50 times as fast as submitit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "slurm-cluster"
RUNS, ONE_BY_ONE = 1000, 10
ALLOWED_FACTOR, ALLOWED_S, FASTER = 1.5, 0.5, 50.0
_SUBMITIT = """
import sys, time, submitit
executor = submitit.SlurmExecutor(folder=sys.argv[1])
executor.update_parameters(time=5)
begun = time.perf_counter()
for _ in range(int(sys.argv[2])):
    executor.submit(print, 1)
print(time.perf_counter() - begun)
"""


def main() -> int:
    """Start a cluster, measure, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    place = Path(tempfile.mkdtemp(prefix="hpcpar-submit-"))
    cluster = Path(tempfile.mkdtemp(prefix="hps-", dir="/tmp"))
    environment = {**os.environ, "HPCPAR_SLURM_DIR": str(cluster), "HPCPAR_STATE": str(place / "state")}

    def run(*command: str) -> tuple[float, str]:
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *command], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{command}: {done.stderr}")
        return time.perf_counter() - begun, done.stdout

    try:
        run("up", "--nodes", "2")
        run("exec", "scontrol", "update", "PartitionName=main", "State=DOWN")
        empty, raw, ours, theirs = [], [], [], []
        for number in range(rounds):
            empty.append(run("exec", "true")[0])
            array = ("sbatch", f"--array=0-{RUNS - 1}", "--output=/dev/null", "--wrap=true")
            raw.append(run("exec", *array)[0])
            ours.append(run("exec", *_hpcpar(place / f"runs-{number}"))[0])
            one = (sys.executable, "-c", _SUBMITIT, str(place / f"submitit-{number}"), str(ONE_BY_ONE))
            theirs.append(float(run("exec", *one)[1]) * RUNS / ONE_BY_ONE)
            run("exec", "scancel", "--user=root" if os.getuid() == 0 else f"--user={os.environ['USER']}", "--quiet")
        return _judge(empty, raw, ours, theirs)
    finally:
        run("down")
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(cluster, ignore_errors=True)


def _hpcpar(runs: Path) -> list[str]:
    size = ["--nodes", "1", "--ranks-per-node", "1", "--repeats", str(RUNS)]
    what = ["--cluster", "slurm-test", "--workload", "mlp", "--strategy", "single"]
    return [sys.executable, "-m", "hpcpar", "submit", *what, *size, "--runs", str(runs)]


def _judge(empty: list[float], raw: list[float], ours: list[float], theirs: list[float]) -> int:
    way_in = statistics.median(empty)
    array_s = statistics.median(r - e for r, e in zip(raw, empty, strict=True))
    hpcpar_s = statistics.median(o - e for o, e in zip(ours, empty, strict=True))
    submitit_s = statistics.median(theirs)
    allowed_s = ALLOWED_FACTOR * array_s + ALLOWED_S
    print(f"{RUNS} runs of one shape, medians of {len(raw)} rounds; {way_in:.3f} s for the way in are taken off")
    print(f"  one raw sbatch --array   {array_s:8.3f} s")
    print(f"  hpcpar submit            {hpcpar_s:8.3f} s   allowed: {allowed_s:.3f} s")
    times = submitit_s / hpcpar_s
    print(f"  submitit, one by one     {submitit_s:8.1f} s   ({ONE_BY_ONE} measured): {times:.0f} times as long")
    return int(hpcpar_s > allowed_s or submitit_s < FASTER * hpcpar_s)


if __name__ == "__main__":
    sys.exit(main())
