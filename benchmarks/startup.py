"""How long hpcpar takes to start, beside an empty interpreter, in one run.

    python benchmarks/startup.py              (what `make bench` calls)
    python benchmarks/startup.py --rounds 30 --json

Every command is measured in blocks A B B A: empty interpreter, command, command, empty interpreter. A block gives one
difference (mean of the two commands minus mean of the two interpreters beside them), so that a machine whose speed
drifts drifts for both. The verdict is the median over the blocks. Exit code 1 when a bound is passed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hpcpar.mesh import Mesh
from hpcpar.records import Cause, Event, RankFacts, RunRecord, Step, append
from hpcpar.runs import BatchLine, RunFolder, StudyFolder
from hpcpar.spec import Identity, RunSpec, Submission
from hpcpar.storage import append_line, write_file

HELP_MS = 100.0
VERB_MS = 250.0
BUSY = 1.5
"""An empty interpreter that takes so many times its own processor time was kept waiting by others."""
NUM_RUNS = 10
STEPS = 100
_SUBMIT = ("submit", "--cluster", "perlmutter", "--strategy", "hybrid", "--nodes", "4")


class Subject(NamedTuple):
    """A command to measure: `bound_ms` is what it may cost over an empty interpreter, None where there is no bound."""

    label: str
    argv: list[str]
    bound_ms: float | None = None
    exit_code: int = 0


class Sample(NamedTuple):
    wall_ms: float
    cpu_ms: float


class Finding(NamedTuple):
    """What the blocks of one subject gave, in milliseconds."""

    label: str
    median_ms: float
    min_ms: float
    cpu_ms: float
    over_empty_ms: float
    quartiles_ms: tuple[float, float]
    bound_ms: float | None

    @property
    def over(self) -> bool:
        return self.bound_ms is not None and self.over_empty_ms > self.bound_ms


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Measure the start-up of hpcpar beside an empty interpreter.")
    parser.add_argument("--rounds", type=int, default=10, help="blocks of four a command (default: 10)")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error("--rounds must be at least 2")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="hpcpar-bench-") as folder:
        bench = Bench(Path(folder))
        findings = bench.measure(given.rounds)
    if given.json:
        print(json.dumps({"rounds": given.rounds, "load": load, "cpus": os.cpu_count(), "findings": _rows(findings)}))
    else:
        _print(findings, given.rounds, load)
    return int(any(finding.over for finding in findings))


class Bench:
    """A private folder with ten finished runs, an environment without a scheduler, and the commands to measure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        study = write_finished_runs(folder / "runs")
        keep = {key: value for key, value in os.environ.items() if not key.startswith(("HPCPAR_", "SLURM_", "PYTHON"))}
        self.environment = {
            **keep,
            "PATH": str(folder / "bin"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "HPCPAR_STATE": str(folder / "state"),
        }
        script = str(Path(sys.executable).parent / "hpcpar")
        self.empty = Subject("python -c pass", [sys.executable, "-c", "pass"])
        self.subjects = [
            Subject("hpcpar --help", [script, "--help"], HELP_MS),
            Subject("hpcpar submit ... --dry-run", [script, *_SUBMIT, "--dry-run"], VERB_MS),
            Subject(f"hpcpar status, {NUM_RUNS} runs", [script, "status", str(study.path)], VERB_MS),
            # There is no sbatch on the PATH above: a real submit goes as far as its gate, which says so.
            Subject("hpcpar submit up to its gate", [script, *_SUBMIT, "--account", "a"], VERB_MS, exit_code=2),
            Subject("import submitit", [sys.executable, "-c", "import submitit"]),
        ]

    def measure(self, rounds: int) -> list[Finding]:
        """Run all blocks, the subjects taking turns; the first call of each only warms the caches."""
        for subject in (self.empty, *self.subjects):
            self.sample(subject)
        blocks: dict[str, list[tuple[Sample, ...]]] = {subject.label: [] for subject in self.subjects}
        for _ in range(rounds):
            for subject in self.subjects:
                order = (self.empty, subject, subject, self.empty)
                blocks[subject.label].append(tuple(map(self.sample, order)))
        interpreter = [sample for found in blocks.values() for block in found for sample in (block[0], block[3])]
        first = _finding(self.empty, interpreter, [0.0, 0.0])
        return [first, *(_judge(subject, blocks[subject.label]) for subject in self.subjects)]

    def sample(self, subject: Subject) -> Sample:
        """Run a command once."""
        begun = time.perf_counter()
        process = subprocess.Popen(
            subject.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
            cwd=self.folder,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != subject.exit_code:
            raise SystemExit(f"{' '.join(subject.argv)}: exit code {process.returncode}, not {subject.exit_code}")
        return Sample(1000 * wall_s, 1000 * (usage.ru_utime + usage.ru_stime))


def _judge(subject: Subject, blocks: list[tuple[Sample, ...]]) -> Finding:
    own = [sample for block in blocks for sample in block[1:3]]
    differences = [(b.wall_ms + c.wall_ms - a.wall_ms - d.wall_ms) / 2 for a, b, c, d in blocks]
    return _finding(subject, own, differences)


def _finding(subject: Subject, samples: list[Sample], differences: list[float]) -> Finding:
    low, _, high = statistics.quantiles(differences, n=4, method="inclusive")
    return Finding(
        label=subject.label,
        median_ms=statistics.median(sample.wall_ms for sample in samples),
        min_ms=min(sample.wall_ms for sample in samples),
        cpu_ms=statistics.median(sample.cpu_ms for sample in samples),
        over_empty_ms=statistics.median(differences),
        quartiles_ms=(low, high),
        bound_ms=subject.bound_ms,
    )


# ---------------------------------------------------------------- ten finished runs


def write_finished_runs(root: Path) -> StudyFolder:
    """Write a study whose runs have all ended well, through the package's own writers."""
    study = StudyFolder(root / "finished")
    specs = [_spec(study.name, repeat) for repeat in range(1, NUM_RUNS + 1)]
    batch = study.batch("0123456789")
    batch.create("#!/bin/bash\n", [spec.run_name for spec in specs])
    batch.journal(BatchLine(kind="intent", time=0.5, scheduler="slurm", begun=0.5))
    batch.journal(BatchLine(kind="accepted", time=1.0, scheduler="slurm", job_id="100"))
    for index, spec in enumerate(specs):
        _write_run(study.run(spec.run_name), spec, f"100_{index}")
    return study


def _spec(study: str, repeat: int) -> RunSpec:
    identity = Identity(
        cluster="generic",
        node_type="cpu",
        workload="llama-tiny",
        workload_options={},
        strategy="ddp",
        strategy_options={},
        mesh=Mesh(dp_replicate=4),
        nodes=2,
        ranks_per_node=2,
        cpus_per_rank=1,
        micro_batch=8,
        grad_accum=1,
        global_batch=32,
        steps=STEPS,
        seed=0,
        repeat=repeat,
    )
    return RunSpec(key=identity.key(), study=study, identity=identity, scaling="strong", warmup_steps=10, time_s=600)


def _write_run(folder: RunFolder, spec: RunSpec, job_id: str) -> None:
    attempt = f"{job_id}.0"
    folder.write_spec(spec)
    append(folder.submission_path, Submission(time=1.0, batch="0123456789", scheduler="slurm", job_id=job_id))
    append(folder.events_path(attempt), Event(time=2.0, kind="start", host="n1", data={"job_id": job_id}))
    for step in range(1, STEPS + 1):
        line = Step(step=step, time_s=0.1, time_min_s=0.1, time_mean_s=0.1, slowest=0, loss=1.0, weight=32.0)
        append(folder.steps_path(attempt), line)
    append(folder.events_path(attempt), Event(time=13.0, kind="exit", host="n1", data={"cause": "ok"}))
    append_line(folder.events_path(attempt), b'{"schema":1,"time":13.1,"kind":"script_exit","data":{"code":0}}')
    write_file(folder.record_path, _record(spec, job_id))


def _record(spec: RunSpec, job_id: str) -> bytes:
    import msgspec

    facts = [
        RankFacts(rank=r, host=f"n{r // 2}", boot_id="b", usable_cpus=4, cpus_asked=1, threads=1, device="cpu")
        for r in range(4)
    ]
    record = RunRecord(
        key=spec.key,
        study=spec.study,
        attempt=f"{job_id}.0",
        job_id=job_id,
        cause=Cause.OK,
        started=2.0,
        ended=13.0,
        steps=STEPS,
        phases={"start": 0.5, "build": 0.5, "train": 10.0, "finish": 0.0},
        loss_first=2.0,
        loss_last=1.0,
        ranks=facts,
        oversubscribed=False,
    )
    return msgspec.json.encode(record)


# ---------------------------------------------------------------- printing


def _rows(findings: list[Finding]) -> list[dict[str, Any]]:
    return [{**finding._asdict(), "over": finding.over} for finding in findings]


def _print(findings: list[Finding], rounds: int, load: float) -> None:
    for line in _lines(findings):
        print(line)
    print(f"\nmilliseconds; {rounds} blocks of four a command; load {load:.1f} on {os.cpu_count()} CPUs")
    interpreter = findings[0]
    if interpreter.median_ms > BUSY * interpreter.cpu_ms:
        print("the machine was busy: wall times are too long; `cpu` is what the command itself used")


def _lines(findings: list[Finding]) -> Iterator[str]:
    yield f"{'':30} {'median':>7} {'min':>7} {'cpu':>7}   {'over the empty interpreter':<28} {'bound':>6}"
    for i, one in enumerate(findings):
        low, high = one.quartiles_ms
        difference = f"{one.over_empty_ms:6.0f}  (quartiles {low:.0f}, {high:.0f})" if i else ""
        bound = "" if one.bound_ms is None else f"{one.bound_ms:6.0f}  {'over' if one.over else 'ok'}"
        numbers = f"{one.median_ms:7.0f} {one.min_ms:7.0f} {one.cpu_ms:7.0f}"
        yield f"{one.label:30} {numbers}   {difference:<28} {bound}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
