"""What every rank runs: meet, build, train, record; and leave a cause of death where that fails.

Rank 0 owns events.ATTEMPT.jsonl, steps.ATTEMPT.jsonl and record.json. Its first act is the event "start", before
anything slow; its last is record.json. See records.Event for the events in between.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from hpcpar import registry, snapshot, storage
from hpcpar.errors import HpcparError
from hpcpar.outcome import UNWRITABLE_CODE
from hpcpar.records import Cause, Diagnosis, Evaluated, Fabric, RunRecord, Step
from hpcpar.registry import Trainer
from hpcpar.runs import RunFolder
from hpcpar.spec import UNDECLARED, RunSpec
from hpcpar.worker import facts, provenance
from hpcpar.worker.checkpoint.keeper import Job, Keeper, make_keeper
from hpcpar.worker.context import make_context
from hpcpar.worker.export import export
from hpcpar.worker.journal import Journal
from hpcpar.worker.measure import diagnosis, fabric
from hpcpar.worker.measure.clock import Clock, CpuClock, CudaClock
from hpcpar.worker.measure.loop import Losses, train
from hpcpar.worker.measure.memory import held_bytes
from hpcpar.worker.measure.phases import Phases
from hpcpar.worker.measure.usage import Meter
from hpcpar.worker.progress import Progress
from hpcpar.worker.rank import RankInfo, rank_info
from hpcpar.worker.signals import BEFORE_LIMIT, Stop, end_on_signal
from hpcpar.worker.sinks import Sinks
from hpcpar.worker.team import Team, assemble
from hpcpar.worker.watchdog import watched
from hpcpar.workload_files import digest

Listener = Callable[[Sequence[Step]], None]
"""Hears of the steps of every window, on rank 0."""
HEARTBEAT_S = 5.0
"""At most one heartbeat in this time."""


def run(run_folder: str) -> None:
    """Run this rank of the run in `run_folder` to its end.

    Raises:
        SystemExit: with 1, after a failure that was recorded; with 74, where the run folder could not be written; with
            0 or 128 + the signal, after a checkpoint that a signal asked for.
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
    stop = end_on_signal(journal, info)
    try:
        _work(folder, spec, info, journal, stop)
    except Exception as error:
        cause = journal.fail(error)
        raise SystemExit(UNWRITABLE_CODE if cause == Cause.STORAGE else 1) from error


def _give_up(message: str) -> NoReturn:
    print(f"hpcpar: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


class _Built(NamedTuple):
    trainer: Trainer
    data: dict[str, Any]
    evaluation: Any
    """neural.Evaluation of the workload, or None."""
    export: Any
    """What makes files of its trained parameters, or None."""
    model_flops: dict[str, float]
    """For a sample, by convention; empty where the workload does not say."""


def _work(folder: RunFolder, spec: RunSpec, info: RankInfo, journal: Journal, stop: Stop) -> None:
    started = time.time()
    hosts = list(info.hostnames)
    journal.write("start", job_id=info.job_id, hosts=hosts, num_ranks=info.world_size, pid=os.getpid())
    phases = Phases(lambda name, seconds: journal.write("phase", name=name, seconds=seconds))
    with phases("start"):
        team = assemble(spec, info, folder)
    connected = None
    if team.meeting is not None:
        with phases("fabric"):
            connected = team.prove_fabric()
    notes = [*facts.shortage_notes(team.reports), *_changed(spec), *_wrong_transport(connected, spec, team)]
    journal.write("ready", ranks=[msgspec.to_builtins(report.facts) for report in team.reports], notes=notes)
    with phases("build"):
        built = _build(spec, team, phases, folder)
    keeper = make_keeper(Job(folder, spec, team, journal, phases), built.trainer, stop)
    with contextlib.closing(built.trainer):
        if keeper is not None:
            keeper.restore()
        with phases("train"):
            meter = Meter(team.device)
            clock = _clock(built.trainer, team)
            is_program = hasattr(built.trainer, "run")
            live = Sinks(spec if info.rank == 0 else None, folder.path, partial(_warn, journal))
            progress = Progress(sys.stdout, spec.identity.steps, spec.sample_unit, spec.identity.global_batch)
            listeners: list[Listener] = [live] if is_program else [progress, live]  # a program speaks for itself
            sink = _StepWriter(folder.steps_path(info.attempt), journal, listeners)
            if is_program:
                done = _run_program(built.trainer, spec, team, sink)
            else:
                pulse, steps = watched(spec, info, journal), spec.identity.steps
                losses = train(built.trainer, steps, clock, team.exchange, sink, checkpoints=keeper, progress=pulse)
                done = _Done(losses, pulse.step if getattr(built.trainer, "is_over", False) else steps)
            used = meter.used()
        if keeper is not None and keeper.stopped_at:
            _leave(folder, team, journal, keeper, stop)
        evaluated = _evaluate(built, team, phases)
        _export(built, spec, team, folder, phases)
        with phases("finish"):
            live.close()
            crew = getattr(built.trainer, "crew", team)
            ranks = crew.facts(used, _held(built.trainer, team), of_children=is_program)
        diagnosed = _diagnose(built, spec, team, phases)  # its memory is no part of the training's
    if info.rank == 0:
        record = RunRecord(
            key=spec.key,
            study=spec.study,
            attempt=info.attempt,
            job_id=info.job_id,
            cause=Cause.OK,
            started=started,
            ended=time.time(),
            steps=done.steps,
            whole_program=done.whole_program,
            phases=phases.less(getattr(built.trainer, "phases", dict)()),
            loss_first=done.losses.first,
            loss_last=done.losses.last,
            ranks=ranks,
            oversubscribed=spec.uses_cpu and facts.oversubscribed(crew.reports),
            data=built.data,
            facts=getattr(built.trainer, "facts", dict)(),
            evaluation=evaluated,
            code_sha256=snapshot.digest_of(code) if (code := snapshot.here()) else "",
            fabric=connected,
            diagnosis=diagnosed,
            model_flops=built.model_flops,
            versions=facts.versions(registry.get_strategy(spec.identity.strategy).extras),
            provenance=provenance.describe(),
            notes=[*notes, *getattr(built.trainer, "notes", ()), *done.notes],
            lineage=list(keeper.lineage(spec.identity.steps)) if keeper is not None and keeper.done else [],
        )
        _conclude(folder, info, record, journal)
    if keeper is not None:
        keeper.forget()
    team.part()


class _Done(NamedTuple):
    """What the training came to."""

    losses: Losses
    steps: int
    whole_program: bool = False
    notes: tuple[str, ...] = ()


def _run_program(program: Any, spec: RunSpec, team: Team, sink: _StepWriter) -> _Done:
    """Run the user's own program; its steps are written when it has ended on all ranks."""
    from hpcpar.worker.program import run as programs

    mine = program.run(spec.folder, sink.beat)
    everybody = team.gather("ran", programs.encode(mine), spec.time_s)
    declared = spec.scaling != UNDECLARED
    ran = programs.reduce([programs.decode(one) for one in everybody], spec.identity.global_batch, declared=declared)
    if team.info.rank == 0:
        sink(ran.steps)
    return _Done(Losses(ran.steps[0].loss, ran.steps[-1].loss), len(ran.steps), ran.whole_program, ran.notes)


def _leave(folder: RunFolder, team: Team, journal: Journal, keeper: Keeper, stop: Stop) -> NoReturn:
    """End a training that a signal stopped. Before the time limit no rank fails: srun would kill the others."""
    before_limit = stop.signal_name != "SIGTERM"
    if team.info.rank == 0:
        name = BEFORE_LIMIT.name if before_limit else stop.signal_name
        kept = "its checkpoint is there" if keeper.safe else "its checkpoint could not be written"
        cause = Cause.TIMEOUT if before_limit else Cause.KILLED
        journal.last_words(cause, f"{name} stopped it after step {keeper.stopped_at}; {kept}")
        if before_limit and keeper.safe:
            storage.write_file(folder.stopped_path(team.info.attempt), b"")
    team.part()
    raise SystemExit(128 + signal.SIGTERM if not before_limit else int(not keeper.safe))


def _build(spec: RunSpec, team: Team, phases: Phases, folder: RunFolder) -> _Built:
    identity = spec.identity
    strategy = registry.get_strategy(identity.strategy)
    workload = _workload(spec)
    workload_options = msgspec.convert(identity.workload_options, workload.Options)
    strategy_options = msgspec.convert(identity.strategy_options, strategy.Options)
    loaded = workload.load(workload_options, identity.seed)
    context = make_context(team.info, identity, team.device, meeting=team.meeting, phases=phases, folder=folder)
    trainer = strategy.build(context, loaded, strategy_options)
    samples = getattr(loaded, "samples", None)
    data = samples.facts() if samples is not None else {}
    evaluation = getattr(loaded, "evaluation", None) if hasattr(trainer, "evaluate") else None
    make = getattr(loaded, "export", None)
    return _Built(trainer, data, evaluation, make, dict(getattr(loaded, "model_flops", {})))


def _export(built: _Built, spec: RunSpec, team: Team, folder: RunFolder, phases: Phases) -> None:
    if built.export is not None:
        learned: Any = getattr(built.trainer, "learned", None)
        with phases("export"):
            export(built.export, learned, team, spec.identity, folder.path)


def _diagnose(built: _Built, spec: RunSpec, team: Team, phases: Phases) -> Diagnosis | None:
    if not spec.diagnose_steps:
        return None
    with phases("diagnose"):
        mine = diagnosis.diagnose(built.trainer, spec.identity.steps, spec.diagnose_steps, team.device)
        everybody = team.gather("diagnosis", msgspec.json.encode(mine), spec.time_s)
    return diagnosis.merged([msgspec.json.decode(one, type=Diagnosis) for one in everybody])


def _held(trainer: Any, team: Team) -> dict[str, int]:
    learned = getattr(trainer, "learned", None)
    with contextlib.suppress(RuntimeError, NotImplementedError):  # tensors of a kind that has no bytes of its own
        return held_bytes(learned, team.device) if learned is not None else {}
    return {}


def _changed(spec: RunSpec) -> list[str]:
    """Say whether the file of the user's own workload is another one than was planned."""
    if not spec.workload_file:
        return []
    now = digest(snapshot.found(Path(spec.workload_file.rpartition(":")[0])))
    if now == spec.workload_sha256:
        return []
    return [f"the workload's file has changed since the plan: sha256 {now[:16]}, it was {spec.workload_sha256[:16]}"]


def _wrong_transport(connected: Fabric | None, spec: RunSpec, team: Team) -> list[str]:
    if connected is None:
        return []
    found = fabric.wrong_transport(
        connected,
        wanted=spec.socket_interface,
        num_machines=len({report.facts.boot_id for report in team.reports}),
        has_infiniband=any(":" in name for name in fabric.sent_bytes()),
    )
    return [found] if found else []


def _warn(journal: Journal, text: str) -> None:
    with contextlib.suppress(HpcparError):  # a sink's thread has nobody to tell that the folder is full
        journal.write("warning", message=text)


def _workload(spec: RunSpec) -> Any:
    if not spec.workload_file:
        return registry.get_workload(spec.identity.workload)
    from hpcpar.worker import workload_file

    path, _, name = spec.workload_file.rpartition(":")
    return workload_file.load(str(snapshot.found(Path(path))), name)


def _evaluate(built: _Built, team: Team, phases: Phases) -> Evaluated | None:
    """Have all ranks evaluate their shares; return the result on rank 0."""
    if built.evaluation is None:
        return None
    trainer: Any = built.trainer
    with phases("evaluate"):
        scores = team.add_up(trainer.evaluate())
    if scores is None:
        return None
    return Evaluated(
        num_samples=len(built.evaluation.samples),
        loss=_ratio(scores.loss_sum, scores.weight),
        metric=built.evaluation.metric,
        value=_ratio(scores.score_sum, scores.score_weight),
    )


def _ratio(total: float, weight: float) -> float | None:
    ratio = total / weight if weight else math.nan
    return ratio if math.isfinite(ratio) else None


def _clock(trainer: Trainer, team: Team) -> Clock:
    synchronous = team.device.type != "cuda" or getattr(trainer, "synchronous", False)
    return CpuClock() if synchronous else CudaClock()


class _StepWriter:
    """Appends the records of a window, and a heartbeat now and then."""

    def __init__(self, path: Path, journal: Journal, listeners: Sequence[Listener]) -> None:
        self._path, self._journal, self._listeners = path, journal, listeners
        self._last_beat = 0.0

    def __call__(self, steps: Sequence[Step]) -> None:
        storage.append_line(self._path, b"\n".join(msgspec.json.encode(step) for step in steps))
        self.beat(steps[-1].step)
        for listener in self._listeners:
            listener(steps)

    def beat(self, step: int) -> None:
        """Write a heartbeat, unless the last one is young."""
        now = time.monotonic()
        if now - self._last_beat >= HEARTBEAT_S:
            self._last_beat = now
            self._journal.write("heartbeat", step=step)


def _conclude(folder: RunFolder, info: RankInfo, record: RunRecord, journal: Journal) -> None:
    storage.write_file(folder.record_path, msgspec.json.format(msgspec.json.encode(record), indent=1))
    journal.write("exit", cause=str(Cause.OK))
    with contextlib.suppress(OSError):
        folder.rendezvous_path(info.attempt).unlink(missing_ok=True)
