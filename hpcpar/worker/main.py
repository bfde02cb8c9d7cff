"""What every rank runs: meet, build, train, record; and leave a cause of death where that fails.

Rank 0 owns events.ATTEMPT.jsonl, steps.ATTEMPT.jsonl and record.json. Its first act is the event "start", before
anything slow; its last is record.json. See records.Event for the events in between.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from hpcpar import registry, storage
from hpcpar.errors import HpcparError
from hpcpar.records import Cause, RunRecord, Step
from hpcpar.registry import Trainer
from hpcpar.runs import RunFolder
from hpcpar.spec import RunSpec
from hpcpar.worker import facts
from hpcpar.worker.context import make_context
from hpcpar.worker.journal import Journal
from hpcpar.worker.measure.clock import Clock, CpuClock, CudaClock
from hpcpar.worker.measure.loop import train
from hpcpar.worker.measure.phases import Phases
from hpcpar.worker.rank import RankInfo, rank_info
from hpcpar.worker.signals import end_on_signal
from hpcpar.worker.team import Team, assemble

HEARTBEAT_S = 5.0
"""At most one heartbeat in this time."""


def run(run_folder: str) -> None:
    """Run this rank of the run in `run_folder` to its end.

    Raises:
        SystemExit: with 1, after a failure that was recorded.
    """
    folder = RunFolder(Path(run_folder))
    spec = folder.spec()
    if spec is None:
        _give_up(f"{folder.spec_path} is missing or damaged")
    try:
        info = rank_info(spec.identity.cpus_per_rank)
    except HpcparError as error:
        _give_up(str(error))
    journal = Journal(folder, info)
    end_on_signal(journal)
    try:
        _work(folder, spec, info, journal)
    except Exception as error:
        journal.fail(error)
        raise SystemExit(1) from error


def _give_up(message: str) -> NoReturn:
    print(f"hpcpar: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


class _Built(NamedTuple):
    trainer: Trainer
    data: dict[str, Any]


def _work(folder: RunFolder, spec: RunSpec, info: RankInfo, journal: Journal) -> None:
    started = time.time()
    hosts = list(info.hostnames)
    journal.write("start", job_id=info.job_id, hosts=hosts, num_ranks=info.world_size, pid=os.getpid())
    phases = Phases(lambda name, seconds: journal.write("phase", name=name, seconds=seconds))
    with phases("start"):
        team = assemble(spec, info, folder)
    notes = facts.shortage_notes(team.reports)
    journal.write("ready", ranks=[msgspec.to_builtins(report.facts) for report in team.reports], notes=notes)
    with phases("build"):
        built = _build(spec, team, phases)
    with contextlib.closing(built.trainer):
        with phases("train"):
            clock = _clock(built.trainer, team)
            sink = _StepWriter(folder.steps_path(info.attempt), journal)
            losses = train(built.trainer, spec.identity.steps, clock, team.exchange, sink)
        with phases("finish"):
            ranks = team.peaks()
    if info.rank == 0:
        record = RunRecord(
            key=spec.key,
            study=spec.study,
            attempt=info.attempt,
            job_id=info.job_id,
            cause=Cause.OK,
            started=started,
            ended=time.time(),
            steps=spec.identity.steps,
            phases=phases.seconds,
            loss_first=losses.first,
            loss_last=losses.last,
            ranks=ranks,
            oversubscribed=spec.uses_cpu and facts.oversubscribed(team.reports),
            data={**built.data, **getattr(built.trainer, "facts", dict)()},
            versions=facts.versions(),
            notes=[*notes, *getattr(built.trainer, "notes", ())],
        )
        _conclude(folder, info, record, journal)
    team.part()


def _build(spec: RunSpec, team: Team, phases: Phases) -> _Built:
    identity = spec.identity
    strategy = registry.get_strategy(identity.strategy)
    workload = registry.get_workload(identity.workload)
    workload_options = msgspec.convert(identity.workload_options, workload.Options)
    strategy_options = msgspec.convert(identity.strategy_options, strategy.Options)
    loaded = workload.load(workload_options, identity.seed)
    context = make_context(team.info, identity, team.device, meeting=team.meeting, phases=phases)
    trainer = strategy.build(context, loaded, strategy_options)
    samples = getattr(loaded, "samples", None)
    return _Built(trainer, samples.facts() if samples is not None else {})


def _clock(trainer: Trainer, team: Team) -> Clock:
    synchronous = team.device.type != "cuda" or getattr(trainer, "synchronous", False)
    return CpuClock() if synchronous else CudaClock()


class _StepWriter:
    """Appends the records of a window, and a heartbeat now and then."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self._path, self._journal = path, journal
        self._last_beat = 0.0

    def __call__(self, steps: Sequence[Step]) -> None:
        storage.append_line(self._path, b"\n".join(msgspec.json.encode(step) for step in steps))
        now = time.monotonic()
        if now - self._last_beat >= HEARTBEAT_S:
            self._last_beat = now
            self._journal.write("heartbeat", step=steps[-1].step)


def _conclude(folder: RunFolder, info: RankInfo, record: RunRecord, journal: Journal) -> None:
    storage.write_file(folder.record_path, msgspec.json.format(msgspec.json.encode(record), indent=1))
    journal.write("exit", cause=str(Cause.OK))
    with contextlib.suppress(OSError):
        folder.rendezvous_path(info.attempt).unlink(missing_ok=True)
