"""What the acts of a run leave to those after them, and the record that is made of it in the end."""

from __future__ import annotations

import contextlib
import time
from typing import Any, NamedTuple

import msgspec

from hpcpar import registry, snapshot, storage
from hpcpar.records import Cause, Diagnosis, Evaluated, Fabric, RankFacts, RunRecord
from hpcpar.registry import Trainer
from hpcpar.runs import RunFolder
from hpcpar.spec import RunSpec
from hpcpar.worker import facts, provenance
from hpcpar.worker.checkpoint.keeper import Keeper
from hpcpar.worker.journal import Journal
from hpcpar.worker.measure.loop import Losses
from hpcpar.worker.measure.phases import Phases
from hpcpar.worker.measure.usage import Used
from hpcpar.worker.rank import RankInfo
from hpcpar.worker.signals import Stop
from hpcpar.worker.sinks import Sinks
from hpcpar.worker.team import Team


class Desk(NamedTuple):
    """What every act of a run has at hand."""

    folder: RunFolder
    spec: RunSpec
    info: RankInfo
    journal: Journal
    stop: Stop
    phases: Phases
    started: float
    """Seconds since the epoch."""


class Met(NamedTuple):
    """The ranks, once they know each other."""

    team: Team
    connected: Fabric | None
    notes: list[str]


class Built(NamedTuple):
    """What the workload and the strategy made."""

    trainer: Trainer
    data: dict[str, Any]
    evaluation: Any
    """neural.Evaluation of the workload, or None."""
    export: Any
    """What makes files of its trained parameters, or None."""
    model_flops: dict[str, float]
    """For a sample, by convention; empty where the workload does not say."""


class Done(NamedTuple):
    """What the training came to."""

    losses: Losses
    steps: int
    whole_program: bool = False
    notes: tuple[str, ...] = ()


class Trained(NamedTuple):
    """The training, and what is still open of it."""

    done: Done
    used: Used
    live: Sinks


class Told(NamedTuple):
    """What was asked after the training."""

    evaluated: Evaluated | None
    diagnosed: Diagnosis | None
    ranks: list[RankFacts]
    crew: Any
    """The processes that worked: the ranks, or those that they sent for."""


def conclude(desk: Desk, met: Met, built: Built, trained: Trained, *, told: Told, keeper: Keeper | None) -> None:
    """Write the record and the last event (rank 0)."""
    spec, done = desk.spec, trained.done
    record = RunRecord(
        key=spec.key,
        study=spec.study,
        attempt=desk.info.attempt,
        job_id=desk.info.job_id,
        cause=Cause.OK,
        started=desk.started,
        ended=time.time(),
        steps=done.steps,
        whole_program=done.whole_program,
        phases=desk.phases.less(getattr(built.trainer, "phases", dict)()),
        loss_first=done.losses.first,
        loss_last=done.losses.last,
        ranks=told.ranks,
        oversubscribed=spec.uses_cpu and facts.oversubscribed(told.crew.reports),
        data=built.data,
        facts=getattr(built.trainer, "facts", dict)(),
        evaluation=told.evaluated,
        code_sha256=snapshot.digest_of(code) if (code := snapshot.here()) else "",
        fabric=met.connected,
        diagnosis=told.diagnosed,
        model_flops=built.model_flops,
        versions=facts.versions(registry.get_strategy(spec.identity.strategy).extras),
        provenance=provenance.describe(),
        notes=[*met.notes, *getattr(built.trainer, "notes", ()), *done.notes],
        lineage=list(keeper.lineage(spec.identity.steps)) if keeper is not None and keeper.done else [],
    )
    storage.write_file(desk.folder.record_path, msgspec.json.format(msgspec.json.encode(record), indent=1))
    desk.journal.write("exit", cause=str(Cause.OK))
    with contextlib.suppress(OSError):
        desk.folder.rendezvous_path(desk.info.attempt).unlink(missing_ok=True)
