"""What `status` costs for 10,000 runs in 100 studies, beyond the scheduler's own calls; and how often it calls.

    python benchmarks/status.py          (what `make bench-status` calls)

The runs lie in folders as submit and the workers leave them; squeue and sacct are stand-ins that answer at once with
the lines of these jobs and count their calls. Each round times `hpcpar status --json` beside an empty interpreter.
Exit code 1: more than two seconds, more than one squeue, or more than one sacct for 200 array ids.
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

import msgspec

from hpcpar.mesh import Mesh
from hpcpar.records import Cause, Event, RankFacts, RunRecord, Step
from hpcpar.runs import BatchLine, RunFolder, StudyFolder
from hpcpar.spec import Identity, RunSpec, Submission

BOUND_S = 2.0
STUDIES, RUNS = 100, 100
STATES = ("done", "running", "queued", "failed", "left")
"""What a fifth of the runs of each study is in; "left": it has left the queue and the accounting knows why."""


def main() -> int:
    """Write the folders, measure, judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--runs", type=int, default=RUNS, help="in each study: one array")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="hpcpar-status-"))
    try:
        return _measure(place, given.studies, given.runs, given.rounds)
    finally:
        shutil.rmtree(place)


def _measure(place: Path, studies: int, runs: int, rounds: int) -> int:
    build(place / "pristine", studies, runs)
    differences, processor, calls = [], [], {}
    for _ in range(rounds):
        # The first look settles what has left the queue: every round begins with the folders as they were.
        shutil.rmtree(place / "runs", ignore_errors=True)
        shutil.copytree(place / "pristine", place / "runs")
        (place / "calls").unlink(missing_ok=True)
        empty_s, empty_cpu_s = _timed([sys.executable, "-c", "pass"], place)
        status_s, status_cpu_s = _timed(
            [sys.executable, "-m", "hpcpar", "status", str(place / "runs"), "--json"], place
        )
        differences.append(status_s - empty_s)
        processor.append(status_cpu_s - empty_cpu_s)
        words = (place / "calls").read_text().split()
        calls = {name: words.count(name) for name in ("squeue", "sacct")}
    median = statistics.median(differences)
    allowed = {"squeue": 1, "sacct": -(-studies // 200)}
    print(f"{studies * runs} runs in {studies} studies, beyond an empty interpreter, medians of {rounds}:")
    print(f"  {median:.2f} s on the clock, {statistics.median(processor):.2f} s of a processor")
    print(f"calls: {calls}, allowed: {allowed}")
    return int(median > BOUND_S or any(calls[name] > allowed[name] for name in calls))


def _timed(command: list[str], place: Path) -> tuple[float, float]:
    """Return the seconds on the clock and of a processor."""
    environment = {**os.environ, "PATH": f"{place / 'pristine-bin'}{os.pathsep}{os.environ['PATH']}"}
    environment["HPCPAR_STATE"] = str(place / "state")
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    lasted, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr.decode())
    return lasted, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


# ---------------------------------------------------------------- the folders


def build(root: Path, studies: int, runs: int) -> None:
    """Write studies of one array each, and stand-ins of squeue and sacct that know their jobs."""
    queue, accounting = [], []
    for number in range(studies):
        study = StudyFolder(root / f"study-{number:03}")
        job = str(1000 + number)
        batch = study.batch(f"{number:010x}")
        names = []
        for index in range(runs):
            state = STATES[index % len(STATES)]
            names.append(_write_run(study, job, index, state, batch.key))
            line = f"{job}|{index}|{{}}|0:10|N/A|{{}}|{study.name}|n1"
            if state == "running":
                queue.append(line.format("RUNNING", "n1"))
            elif state == "queued":
                queue.append(line.format("PENDING", "(Priority)"))
            elif state == "left":
                accounting.append(f"{job}_{index}|NODE_FAIL|0:0|10|n1|{study.name}|None")
        batch.create("#!/bin/bash\n", names)
        batch.journal(BatchLine(kind="intent", time=1.0, begun=1.0, scheduler="slurm"))
        batch.journal(BatchLine(kind="accepted", time=1.0, scheduler="slurm", job_id=job))
    _stand_in(root, "squeue", queue)
    _stand_in(root, "sacct", accounting)


def _stand_in(root: Path, name: str, lines: list[str]) -> None:
    folder = root.parent / "pristine-bin"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    stub = folder / name
    stub.write_text(f'#!/bin/sh\necho {name} >>"{root.parent}/calls"\nexec cat "{folder}/{name}.txt"\n')
    stub.chmod(0o755)


def _write_run(study: StudyFolder, job: str, index: int, state: str, batch: str) -> str:
    spec = _spec(study.name, index)
    folder = RunFolder(study.path / spec.run_name)
    folder.path.mkdir(parents=True)
    folder.spec_path.write_bytes(msgspec.json.format(msgspec.json.encode(spec), indent=1))
    submitted = Submission(time=1.0, batch=batch, scheduler="slurm", job_id=f"{job}_{index}")
    folder.submission_path.write_bytes(msgspec.json.encode(submitted) + b"\n")
    if state == "queued":
        return spec.run_name
    attempt = f"{job}_{index}.0"
    events = [Event(time=2.0, kind="start", host="n1"), Event(time=3.0, kind="ready", data={"ranks": []})]
    if state == "failed":
        events += [Event(time=9.0, kind="error", data={"cause": "python_error", "message": "KeyError: 'x'"})]
    if state in ("failed", "done"):
        events += [Event(time=9.0, kind="script_exit", data={"code": int(state == "failed")})]
    folder.events_path(attempt).write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    steps = [Step(step=n, time_s=0.1, time_min_s=0.1, time_mean_s=0.1, slowest=0, loss=1.0) for n in range(1, 101)]
    folder.steps_path(attempt).write_bytes(b"".join(msgspec.json.encode(step) + b"\n" for step in steps))
    if state == "done":
        folder.record_path.write_bytes(msgspec.json.format(msgspec.json.encode(_record(spec, attempt)), indent=1))
    if state == "failed":
        ended = msgspec.structs.replace(submitted, kind="ended", time=10.0, state="FAILED", exit_code="1:0")
        with folder.submission_path.open("ab") as file:
            file.write(msgspec.json.encode(ended) + b"\n")
    return spec.run_name


def _spec(study: str, index: int) -> RunSpec:
    identity = Identity(
        cluster="c",
        node_type="cpu",
        workload="mlp",
        workload_options={},
        strategy="ddp",
        strategy_options={},
        mesh=Mesh(dp_replicate=2),
        nodes=1,
        ranks_per_node=2,
        cpus_per_rank=1,
        micro_batch=8,
        grad_accum=1,
        global_batch=16,
        steps=1000,
        seed=0,
        repeat=index + 1,
    )
    return RunSpec(key=identity.key(), study=study, identity=identity, scaling="strong", warmup_steps=1, time_s=600.0)


def _record(spec: RunSpec, attempt: str) -> RunRecord:
    ranks = [
        RankFacts(rank=r, host="n1", boot_id="b", usable_cpus=2, cpus_asked=1, threads=1, device="cpu")
        for r in range(2)
    ]
    return RunRecord(
        key=spec.key,
        study=spec.study,
        attempt=attempt,
        job_id=attempt.rpartition(".")[0],
        cause=Cause.OK,
        started=2.0,
        ended=9.0,
        steps=1000,
        phases={"train": 5.0},
        loss_first=1.0,
        loss_last=0.5,
        ranks=ranks,
        oversubscribed=False,
    )


if __name__ == "__main__":
    sys.exit(main())
