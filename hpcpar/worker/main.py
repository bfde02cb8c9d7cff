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
from typing import Any, NoReturn

import msgspec

from hpcpar import registry, snapshot, storage
from hpcpar.errors import HpcparError
from hpcpar.outcome import UNWRITABLE_CODE
from hpcpar.records import Cause, Diagnosis, Evaluated, Fabric, Step
from hpcpar.registry import Trainer
from hpcpar.runs import RunFolder
from hpcpar.spec import UNDECLARED, RunSpec
from hpcpar.worker import facts
from hpcpar.worker.checkpoint.keeper import Job, Keeper, make_keeper
from hpcpar.worker.conclusion import Built, Desk, Done, Met, Told, Trained, conclude
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


def _work(folder: RunFolder, spec: RunSpec, info: RankInfo, journal: Journal, stop: Stop) -> None:
    phases = Phases(lambda name, seconds: journal.write("phase", name=name, seconds=seconds))
    desk = Desk(folder, spec, info, journal, stop, phases, time.time())
    hosts = list(info.hostnames)
    journal.write("start", job_id=info.job_id, hosts=hosts, num_ranks=info.world_size, pid=os.getpid())
    met = _meet(desk)
    with phases("build"):
        built = _build(desk, met.team)
    keeper = make_keeper(Job(folder, spec, met.team, journal, phases), built.trainer, stop)
    with contextlib.closing(built.trainer):
        if keeper is not None:
            keeper.restore()
        with phases("train"):
            trained = _train(desk, met.team, built, keeper)
        if keeper is not None and keeper.stopped_at:
            _leave(desk, met.team, keeper)
        told = _ask(desk, met.team, built, trained)
    if info.rank == 0:
        conclude(desk, met, built, trained, told=told, keeper=keeper)
    if keeper is not None:
        keeper.forget()
    met.team.part()


def _meet(desk: Desk) -> Met:
    with desk.phases("start"):
        team = assemble(desk.spec, desk.info, desk.folder)
    connected = None
    if team.meeting is not None:
        with desk.phases("fabric"):
            connected = team.prove_fabric()
    notes = [*facts.shortage_notes(team.reports), *_changed(desk.spec), *_wrong_transport(connected, desk.spec, team)]
    desk.journal.write("ready", ranks=[msgspec.to_builtins(report.facts) for report in team.reports], notes=notes)
    return Met(team, connected, notes)


def _train(desk: Desk, team: Team, built: Built, keeper: Keeper | None) -> Trained:
    spec, info, trainer = desk.spec, desk.info, built.trainer
    meter = Meter(team.device)
    clock = _clock(trainer, team)
    is_program = hasattr(trainer, "run")
    live = Sinks(spec if info.rank == 0 else None, desk.folder.path, partial(_warn, desk.journal))
    progress = Progress(sys.stdout, spec.identity.steps, spec.sample_unit, spec.identity.global_batch)
    listeners: list[Listener] = [live] if is_program else [progress, live]  # a program speaks for itself
    sink = _StepWriter(desk.folder.steps_path(info.attempt), desk.journal, listeners)
    if is_program:
        done = _run_program(trainer, spec, team, sink)
    else:
        pulse, steps = watched(spec, info, desk.journal), spec.identity.steps
        losses = train(trainer, steps, clock, team.exchange, sink, checkpoints=keeper, progress=pulse)
        done = Done(losses, pulse.step if getattr(trainer, "is_over", False) else steps)
    return Trained(done, meter.used(), live)


def _ask(desk: Desk, team: Team, built: Built, trained: Trained) -> Told:
    """Evaluate, export, hear what every rank used, diagnose."""
    evaluated = _evaluate(desk, team, built)
    _export(desk, team, built)
    with desk.phases("finish"):
        trained.live.close()
        crew = getattr(built.trainer, "crew", team)
        ranks = crew.facts(trained.used, _held(built.trainer, team), of_children=hasattr(built.trainer, "run"))
    diagnosed = _diagnose(desk, team, built)  # its memory is no part of the training's
    return Told(evaluated, diagnosed, ranks, crew)


def _run_program(program: Any, spec: RunSpec, team: Team, sink: _StepWriter) -> Done:
    """Run the user's own program; its steps are written when it has ended on all ranks."""
    from hpcpar.worker.program import run as programs

    mine = program.run(spec.folder, sink.beat)
    everybody = team.gather("ran", programs.encode(mine), spec.time_s)
    declared = spec.scaling != UNDECLARED
    ran = programs.reduce([programs.decode(one) for one in everybody], spec.identity.global_batch, declared=declared)
    if team.info.rank == 0:
        sink(ran.steps)
    return Done(Losses(ran.steps[0].loss, ran.steps[-1].loss), len(ran.steps), ran.whole_program, ran.notes)


def _leave(desk: Desk, team: Team, keeper: Keeper) -> NoReturn:
    """End a training that a signal stopped. Before the time limit no rank fails: srun would kill the others."""
    before_limit = desk.stop.signal_name != "SIGTERM"
    if team.info.rank == 0:
        name = BEFORE_LIMIT.name if before_limit else desk.stop.signal_name
        kept = "its checkpoint is there" if keeper.safe else "its checkpoint could not be written"
        cause = Cause.TIMEOUT if before_limit else Cause.KILLED
        desk.journal.last_words(cause, f"{name} stopped it after step {keeper.stopped_at}; {kept}")
        if before_limit and keeper.safe:
            storage.write_file(desk.folder.stopped_path(team.info.attempt), b"")
    team.part()
    raise SystemExit(128 + signal.SIGTERM if not before_limit else int(not keeper.safe))


def _build(desk: Desk, team: Team) -> Built:
    spec, identity = desk.spec, desk.spec.identity
    strategy = registry.get_strategy(identity.strategy)
    workload = _workload(spec)
    workload_options = msgspec.convert(identity.workload_options, workload.Options)
    strategy_options = msgspec.convert(identity.strategy_options, strategy.Options)
    loaded = workload.load(workload_options, identity.seed)
    context = make_context(
        team.info, identity, team.device, meeting=team.meeting, phases=desk.phases, folder=desk.folder
    )
    trainer = strategy.build(context, loaded, strategy_options)
    samples = getattr(loaded, "samples", None)
    data = samples.facts() if samples is not None else {}
    evaluation = getattr(loaded, "evaluation", None) if hasattr(trainer, "evaluate") else None
    make = getattr(loaded, "export", None)
    return Built(trainer, data, evaluation, make, dict(getattr(loaded, "model_flops", {})))


def _export(desk: Desk, team: Team, built: Built) -> None:
    if built.export is not None:
        learned: Any = getattr(built.trainer, "learned", None)
        with desk.phases("export"):
            export(built.export, learned, team, desk.spec.identity, desk.folder.path)


def _diagnose(desk: Desk, team: Team, built: Built) -> Diagnosis | None:
    spec = desk.spec
    if not spec.diagnose_steps:
        return None
    with desk.phases("diagnose"):
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


def _evaluate(desk: Desk, team: Team, built: Built) -> Evaluated | None:
    """Have all ranks evaluate their shares; return the result on rank 0."""
    if built.evaluation is None:
        return None
    trainer: Any = built.trainer
    with desk.phases("evaluate"):
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
