"""What a plan costs on a login node: llama-7b under all strategies on six node counts, and on 4,096 ranks.

    python benchmarks/plan.py            (what `make bench-plan` calls)

Each plan is a fresh process, held to two processors, with an empty state folder (`cold`: the model is traced) and then
with the same one (`warm`: nothing is traced). Memory is the sum of the resident sets of the process and its children,
looked at every 20 ms. Exit code 1: a cold plan of the six sizes takes more than 20 s or 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ALLOWED_S, ALLOWED_BYTES = 20.0, 2e9
PROCESSORS = 2
SIX = ("1", "2", "4", "8", "16", "32")
WIDE = ("1024", "--global-batch", "8192")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Cost(NamedTuple):
    """Of one plan."""

    wall_s: float
    cpu_s: float
    most_bytes: int
    cells: int


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workload", default="llama-7b")
    workload = parser.parse_args().workload
    allowed = sorted(os.sched_getaffinity(0))[:PROCESSORS]
    os.sched_setaffinity(0, allowed)
    found: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory(prefix="hpcpar-plan-") as place:
        for name, nodes in (("six sizes", SIX), ("4,096 ranks", WIDE)):
            for state in ("cold", "warm"):
                found[f"{name}, {state}"] = plan(workload, nodes, Path(place, name.replace(" ", "-")))
    print(f"hpcpar plan --cluster perlmutter --workload {workload}, on {len(allowed)} processors")
    print(f"{'':20} {'wall (s)':>9} {'cpu (s)':>9} {'memory (GB)':>12} {'cells':>6}")
    for name, cost in found.items():
        print(f"{name:20} {cost.wall_s:9.1f} {cost.cpu_s:9.1f} {cost.most_bytes / 1e9:12.2f} {cost.cells:6d}")
    cold = found["six sizes, cold"]
    if os.getloadavg()[0] > len(allowed) + 1:
        print("the machine is busy: repeat on a quiet one before you believe an excess")
    print(f"allowed, cold: {ALLOWED_S:g} s and {ALLOWED_BYTES / 1e9:g} GB")
    return int(cold.wall_s > ALLOWED_S or cold.most_bytes > ALLOWED_BYTES)


def plan(workload: str, nodes: tuple[str, ...], state: Path) -> Cost:
    """Plan once, in a process of its own."""
    words = ["plan", "--cluster", "perlmutter", "--workload", workload, "--nodes", *nodes, "--json"]
    words += ["--runs", str(state / "runs")]
    before, begun = _cpu_s(), time.perf_counter()
    most = 0
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "hpcpar", *words], stdout=out, env={**os.environ, "HPCPAR_STATE": str(state)}
        )
        while process.poll() is None:
            most = max(most, _resident(process.pid))
            time.sleep(0.02)
        wall_s = time.perf_counter() - begun
        out.seek(0)
        answer = json.load(out)
    return Cost(wall_s, _cpu_s() - before, most, len(answer["rows"]) + len(answer["refused"]))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident(pid: int) -> int:
    """Return the bytes that a process and all below it have in memory; what they share counts for each."""
    total, waiting = 0, [pid]
    while waiting:
        folder = Path("/proc", str(waiting.pop()))
        try:
            total += int((folder / "statm").read_text().split()[1]) * PAGE
            for task in (folder / "task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, IndexError):  # it has just ended
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
