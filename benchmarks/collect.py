"""What `collect` costs beside reading the same bytes with the fastest and the usual reader, in one run.

    python benchmarks/collect.py                         10,000 runs, 1.2 GB in a temporary folder, a few minutes
    python benchmarks/collect.py --runs 1000 --keep /tmp/tree --json

A tree of run folders is generated, then read in fresh processes, each several times in turn: bare typed decoding
(msgspec, hpcpar's own Step), pandas.read_json, and hpcpar's reduction to one row a run: cold (no cache), warm (nothing
changed) and after one run in a hundred changed. Judged are processor seconds of a process and its children, imports
left out, smallest of the rounds. What tables, laws and verdicts take on top is printed apart (`tables`). Exit code 1
when a bound is passed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLD_OVER_BARE = 2.5
PANDAS_OVER_COLD = 6.0
WARM_S = 1.0
COLD_OVER_CHANGED = 20.0
PEAK_MB = 300.0
STEPS = 750
STUDIES = 20
STRATEGIES = ("ddp", "fsdp", "pp", "tp")
NODES = (1, 2, 4, 8, 16)
SETTLE_S = 2.5
"""A file that changed a moment ago is read again, cache or not: see hpcpar/inventory.py."""


def main() -> int:
    """Generate, measure, print, judge."""
    parser = argparse.ArgumentParser(description="Measure collect beside bare readers.")
    parser.add_argument("--runs", type=int, default=10_000, help="run folders (default: 10000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="generate into this folder and leave it there")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "TREE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one[0], Path(options.one[1]))))
        return 0
    with tempfile.TemporaryDirectory(prefix="hpcpar-collect-") as temporary:
        tree = options.keep or Path(temporary)
        if not any(tree.glob("*/*/spec.json")):
            generate(tree, options.runs)
        found = compare(tree, options.rounds)
    print(json.dumps(found, indent=1) if options.json else in_words(found))
    return 0 if all(row["ok"] for row in found["bounds"]) else 1


# ---------------------------------------------------------------- the tree


def generate(tree: Path, count: int) -> None:
    """Write run folders with hpcpar's own records: studies of four strategies on five sizes, repeated as needed."""
    print(f"generating {count} runs in {tree}", file=sys.stderr)
    shapes = [(s, n) for s in STRATEGIES for n in NODES]
    for place in range(count):
        study, inside = place % STUDIES, place // STUDIES
        strategy, nodes = shapes[inside % len(shapes)]
        write_run(tree, f"study-{study}", strategy, nodes, 1 + inside // len(shapes), place)


def write_run(tree: Path, study: str, strategy: str, nodes: int, repeat: int, place: int) -> None:
    """Write one run of STEPS steps, whose times differ from those of every other."""
    import msgspec

    from hpcpar.mesh import Mesh
    from hpcpar.records import Cause, Event, RankFacts, RunRecord
    from hpcpar.runs import RunFolder
    from hpcpar.spec import Identity, RunSpec, Submission

    identity = Identity(
        cluster="testbed", node_type="gpu", workload="clockwork", workload_options={"width": 8}, strategy=strategy,
        strategy_options={}, mesh=Mesh(dp_replicate=nodes), nodes=nodes, ranks_per_node=1, cpus_per_rank=1,
        micro_batch=64 // nodes, grad_accum=1, global_batch=64, steps=STEPS, seed=0, repeat=repeat,
    )  # fmt: skip
    spec = RunSpec(key=identity.key(), study=study, identity=identity, scaling="strong", warmup_steps=50, time_s=600)
    begun = 1.7e9 + 1000 * place
    ranks = [
        RankFacts(
            rank=r, host=f"n{r}", boot_id=f"boot{r}", usable_cpus=16, cpus_asked=1, threads=1, device="cpu",
            peak_memory_bytes=10**8 + r,
        )
        for r in range(nodes)
    ]  # fmt: skip
    record = RunRecord(
        key=spec.key, study=study, attempt=f"{place}.0", job_id=str(place), cause=Cause.OK, started=begun,
        ended=begun + 100, steps=STEPS, phases={"start": 1.0, "build": 2.0, "train": 90.0, "finish": 0.5},
        loss_first=4.0, loss_last=1.0, ranks=ranks, oversubscribed=False, versions={"hpcpar": "0.1.0"},
    )  # fmt: skip
    folder = RunFolder(tree / study / spec.run_name)
    folder.path.mkdir(parents=True)
    encode = msgspec.json.encode
    submission = Submission(time=begun, batch="b", scheduler="slurm", job_id=str(place))
    folder.spec_path.write_bytes(encode(spec))
    folder.submission_path.write_bytes(encode(submission) + b"\n")
    folder.events_path(record.attempt).write_bytes(encode(Event(time=begun, kind="start", host="n0")) + b"\n")
    folder.steps_path(record.attempt).write_bytes(b"".join(step_lines(0.1 + 0.8 / nodes, place)))
    folder.record_path.write_bytes(encode(record))


def step_lines(mean_s: float, place: int) -> Iterator[bytes]:
    """Yield the lines of a run's steps; times with as many digits as a clock's."""
    import msgspec

    from hpcpar.records import Step

    run = 1 + 0.02 * ((place * 7919) % 1000) / 1000
    for number in range(1, STEPS + 1):
        time_s = mean_s * run * (1 + 0.1 * ((number * 104729 + place) % 997) / 997)
        step = Step(
            step=number, time_s=time_s, time_min_s=0.9 * time_s, time_mean_s=0.95 * time_s, slowest=number % 4,
            loss=4.0 / number**0.5, weight=64.0,
        )  # fmt: skip
        yield msgspec.json.encode(step) + b"\n"


def change(tree: Path) -> int:
    """Append a line to the submissions of every hundredth run, as a second attempt would; return their number."""
    runs = sorted(tree.glob("*/*/submission.jsonl"))[::100]
    for path in runs:
        with path.open("ab") as file:
            file.write(path.read_bytes().splitlines(keepends=True)[0])
    return len(runs)


# ---------------------------------------------------------------- one measurement, in a process of its own


def measured(what: str, tree: Path) -> dict[str, float]:
    """Do one thing with the tree; return what this process and its children used for it, imports left out."""
    import pandas as pd

    import hpcpar
    from hpcpar.analysis import collect as _collect  # noqa: F401  (imports are no part of what is measured)
    from hpcpar.analysis.rows.gather import gather
    from hpcpar.records import Step

    steps = sorted(tree.glob("*/*/steps.*.jsonl")) if what in ("bare", "pandas") else []
    before, begun = cpu_s(), time.perf_counter()
    if what == "bare":
        import msgspec

        decoder = msgspec.json.Decoder(Step)
        for path in steps:
            decoder.decode_lines(path.read_bytes())
    elif what == "pandas":
        for path in steps:
            pd.read_json(path, lines=True)
    elif what == "tables":
        results = hpcpar.collect(tree)
        results.to_markdown(), results.to_json(), results.to_csv()
    else:
        gather([tree])
    return {"cpu_s": cpu_s() - before, "wall_s": time.perf_counter() - begun}


def cpu_s() -> float:
    """Return the processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run_one(what: str, tree: Path) -> dict[str, float]:
    """Measure in a fresh process; look every 20 ms at the memory that it and its children hold together."""
    command = [sys.executable, __file__, "--one", what, str(tree)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(resident_bytes(pid) for pid in [process.pid, *children(process.pid)]))
            time.sleep(0.02)
        assert process.stdout is not None
        answer = process.stdout.read()
    if process.returncode:
        sys.exit(f"measuring {what} failed")
    found: dict[str, float] = json.loads(answer.splitlines()[-1])
    return {**found, "peak_mb": peak / 1024**2}


def children(pid: int) -> list[int]:
    """List the processes that a process has started."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return []


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds now; pages that it shares with others count, too."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


# ---------------------------------------------------------------- side by side


def compare(tree: Path, rounds: int) -> dict[str, Any]:
    """Measure everything in turn, round by round, so that a machine that becomes slower does so for all."""
    taken: dict[str, list[dict[str, float]]] = {}
    changed = 0
    for number in range(rounds):
        for cache in tree.glob("*/.rows*"):
            cache.unlink()
        time.sleep(SETTLE_S)
        for what in ("bare", "cold", "warm", "changed"):
            if what == "changed":
                changed = change(tree)
            taken.setdefault(what, []).append(run_one(what, tree))
        if number == 0:
            taken["pandas"] = [run_one("pandas", tree)]
            taken["tables"] = [run_one("tables", tree)]
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    best = {what: min(one["cpu_s"] for one in several) for what, several in taken.items()}
    peak = max(one["peak_mb"] for what in ("cold", "warm", "changed", "tables") for one in taken[what])
    size = sum(path.stat().st_size for path in tree.glob("*/*/steps.*.jsonl"))
    bounds = [
        bound("cold / bare decoding", best["cold"] / best["bare"], COLD_OVER_BARE),
        bound("pandas.read_json / cold", best["pandas"] / best["cold"], PANDAS_OVER_COLD, at_least=True),
        bound("warm, CPU s", best["warm"], WARM_S),
        bound(f"cold / {changed} runs changed", best["cold"] / best["changed"], COLD_OVER_CHANGED, at_least=True),
        bound("peak memory, MB, all processes", peak, PEAK_MB),
    ]
    runs = sum(1 for _ in tree.glob("*/*/spec.json"))
    return {"runs": runs, "steps_bytes": size, "cpu_s": best, "bounds": bounds, "load": os.getloadavg()[0]}


def bound(name: str, value: float, limit: float, *, at_least: bool = False) -> dict[str, Any]:
    """Return a judged number."""
    return {"name": name, "value": value, "limit": limit, "ok": value >= limit if at_least else value <= limit}


def in_words(found: dict[str, Any]) -> str:
    """Print what was found for people."""
    lines = [f"{found['runs']} runs, {found['steps_bytes'] / 1e9:.2f} GB of steps, load {found['load']:.1f}"]
    lines += [f"{what:>8}  {seconds:7.2f} CPU s" for what, seconds in found["cpu_s"].items()]
    lines += [
        f"{'ok' if row['ok'] else 'over':>8}  {row['name']}: {row['value']:.2f} (bound {row['limit']:g})"
        for row in found["bounds"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if "--one" not in sys.argv and shutil.disk_usage(tempfile.gettempdir()).free < 4e9:
        sys.exit("this needs 4 GB in the temporary folder (TMPDIR)")
    sys.exit(main())
