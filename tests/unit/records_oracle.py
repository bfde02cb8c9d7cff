"""Run folders with known truth, written through hpcpar's own writers.

A step of a run takes (serial_s + sample_s x global_batch / ranks) x exp(run noise): Amdahl's model with a known serial
part. Within a run the steps scatter around that mean and the warm-up steps are five times slower; the mean over the
steps after the warm-up is exact, so that the only randomness that reaches a table is the one between runs.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from hpcpar import records, storage
from hpcpar.mesh import Mesh, parse_mesh
from hpcpar.records import Cause, Event, RankFacts, RunRecord, Step
from hpcpar.runs import RunFolder
from hpcpar.spec import Identity, RunSpec, Submission
from hpcpar.storage import write_file

if TYPE_CHECKING:
    import pytest

WARMUP_FACTOR = 5.0


@dataclass(frozen=True)
class Truth:
    """One strategy's constants: seconds that do not shrink, and seconds a sample that do."""

    serial_s: float
    sample_s: float

    def step_time_s(self, global_batch: int, ranks: int) -> float:
        return self.serial_s + self.sample_s * global_batch / ranks


@dataclass(frozen=True)
class Oracle:
    """A study: which runs there are, and what is true of them."""

    truths: dict[str, Truth]
    nodes: tuple[int, ...] = (1, 2, 4)
    repeats: int = 3
    scaling: str = "strong"
    global_batch: int = 64
    """At the smallest size."""
    ranks_per_node: int = 2
    noise: float = 0.0
    """Standard deviation of the logarithm of a run's time, between runs."""
    steps: int = 40
    warmup_steps: int = 10
    seed: int = 0
    study: str = "oracle"
    workload: str = "clockwork"
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Strategy to its options; a `mesh` among them is resolved for each size."""
    failures: dict[tuple[str, int, int], Cause] = field(default_factory=dict)
    """(strategy, nodes, repeat) to the cause of its death."""
    never_ran: frozenset[tuple[str, int, int]] = frozenset()
    oversubscribed_from: int = 10**9
    """Node count from which the record says so."""
    one_machine: bool = False
    begun_s: float = 1_700_000_000.0
    """When the first run began; the next ones follow without overlap."""
    tokens_per_sample: int | None = None

    def batch(self, nodes: int) -> int:
        return self.global_batch * nodes // min(self.nodes) if self.scaling == "weak" else self.global_batch

    def step_time_s(self, strategy: str, nodes: int) -> float:
        """The true step time, without noise."""
        return self.truths[strategy].step_time_s(self.batch(nodes), nodes * self.ranks_per_node)

    def run_time_s(self, strategy: str, nodes: int, repeat: int) -> float:
        """The time that this run takes for a step: the truth times its own noise."""
        place = [self.seed, sorted(self.truths).index(strategy), nodes, repeat]
        return self.step_time_s(strategy, nodes) * math.exp(self.noise * np.random.default_rng(place).standard_normal())

    def write(self, root: Path) -> list[RunFolder]:
        """Write every run below root/STUDY."""
        return [
            self.write_run(root, strategy, nodes, repeat)
            for repeat in range(1, self.repeats + 1)
            for strategy in self.truths
            for nodes in self.nodes
        ]

    def spec(self, strategy: str, nodes: int, repeat: int) -> RunSpec:
        ranks, options = nodes * self.ranks_per_node, self.options.get(strategy, {})
        mesh = parse_mesh(options["mesh"], ranks) if options.get("mesh") else Mesh(dp_replicate=ranks)
        batch = self.batch(nodes)
        identity = Identity(
            cluster="testbed",
            node_type="cpu",
            workload=self.workload,
            workload_options={"width": 8},
            strategy=strategy.partition("/")[0],
            strategy_options=options,
            mesh=mesh,
            nodes=nodes,
            ranks_per_node=self.ranks_per_node,
            cpus_per_rank=1,
            micro_batch=max(1, batch // mesh.data_ranks),
            grad_accum=1,
            global_batch=batch,
            steps=self.steps,
            seed=self.seed,
            repeat=repeat,
        )
        return RunSpec(
            key=identity.key(),
            study=self.study,
            identity=identity,
            scaling=self.scaling,
            warmup_steps=self.warmup_steps,
            tokens_per_sample=self.tokens_per_sample,
            time_s=600,
        )

    def write_run(self, root: Path, strategy: str, nodes: int, repeat: int) -> RunFolder:
        spec = self.spec(strategy, nodes, repeat)
        folder = RunFolder(root / self.study / spec.run_name)
        folder.write_spec(spec)
        place = (strategy, nodes, repeat)
        if place in self.never_ran:
            return folder
        begun = self.begun_s + 1000 * len(list(folder.path.parent.iterdir()))
        records.append(folder.submission_path, Submission(time=begun, batch="b", scheduler="slurm", job_id=str(repeat)))
        attempt = f"{repeat}.0"
        event = Event(time=begun, kind="start", host="n1")
        records.append(folder.events_path(attempt), event)
        cause = self.failures.get(place)
        done = self.steps // 2 if cause else self.steps
        lines = [msgspec.json.encode(step) for step in self.step_lines(self.run_time_s(*place), done)]
        write_file(folder.steps_path(attempt), b"\n".join([*lines, b""]))
        if cause:
            self._die(folder, attempt, cause, begun)
        else:
            write_record(folder, self.record(spec, attempt, begun))
        return folder

    def step_lines(self, mean_s: float, count: int) -> Iterator[Step]:
        scatter = np.random.default_rng(self.seed).uniform(-0.2, 0.2, self.steps - self.warmup_steps)
        scatter -= scatter.mean()
        for number in range(1, count + 1):
            warm = number > self.warmup_steps
            factor = 1 + scatter[number - self.warmup_steps - 1] if warm else WARMUP_FACTOR
            time_s = float(mean_s * factor)
            yield Step(
                step=number, time_s=time_s, time_min_s=0.9 * time_s, time_mean_s=0.95 * time_s, slowest=0,
                loss=loss_at(number), weight=1.0,
            )  # fmt: skip

    def record(self, spec: RunSpec, attempt: str, begun: float) -> RunRecord:
        identity = spec.identity
        return RunRecord(
            key=spec.key,
            study=spec.study,
            attempt=attempt,
            job_id=attempt.partition(".")[0],
            cause=Cause.OK,
            started=begun,
            ended=begun + 100,
            steps=self.steps,
            phases={"start": 1.0, "build": 2.0, "train": 90.0, "finish": 0.5},
            loss_first=loss_at(1),
            loss_last=loss_at(self.steps),
            ranks=[self._facts(rank) for rank in range(identity.world_size)],
            oversubscribed=identity.nodes >= self.oversubscribed_from,
            versions={"hpcpar": "0.1.0"},
        )

    def _facts(self, rank: int) -> RankFacts:
        node = 1 + rank // self.ranks_per_node
        return RankFacts(
            rank=rank,
            host=f"n{node}",
            boot_id="boot" if self.one_machine else f"boot-{node}",
            usable_cpus=16,
            cpus_asked=1,
            threads=1,
            device="cpu",
            peak_memory_bytes=peak_bytes(rank),
        )

    def _die(self, folder: RunFolder, attempt: str, cause: Cause, begun: float) -> None:
        data = {"cause": str(cause), "message": f"it died of {cause}"}
        records.append(folder.events_path(attempt), Event(time=begun + 5, kind="error", host="n1", data=data))
        records.append(folder.events_path(attempt), Event(time=begun + 6, kind="script_exit", data={"code": 1}))


def loss_at(step: int) -> float:
    return 4.0 / step


def peak_bytes(rank: int) -> int:
    return 100 * 1024**2 + rank


def write_record(folder: RunFolder, record: RunRecord) -> None:
    write_file(folder.record_path, msgspec.json.encode(record))


def change_record(folder: RunFolder, **changes: Any) -> None:
    """Rewrite record.json with other values."""
    record = folder.record()
    assert record is not None
    write_record(folder, msgspec.structs.replace(record, **changes))


def refuse(patch: pytest.MonkeyPatch, path: Path) -> None:
    """Let a file be one that may not be read; root, who runs tests in containers, may read every real one."""
    true = storage._open

    def opened(wanted: Path | str) -> tuple[int, int]:
        if str(wanted) == str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return true(wanted)

    patch.setattr(storage, "_open", opened)


def ideal(**changes: Any) -> Oracle:
    """A study that scales perfectly and has no noise. Binary fractions, so that a time halves exactly."""
    oracle = Oracle(truths={"ddp": Truth(0.0, 2**-8)})
    return replace(oracle, **changes)
