"""When a run is checkpointed, and what it goes on from. The training loop asks; without checkpoints there is no keeper.

Every method is called on all ranks at once. Rank 0 decides and tells: it lists the folders, it is the one that a signal
must reach, and its word goes to the others with the exchange that ends a window anyway.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from hpcpar.errors import RunError
from hpcpar.records import Cause, Span
from hpcpar.registry import Trainer
from hpcpar.runs import RunFolder
from hpcpar.spec import Checkpointing, RunSpec
from hpcpar.worker.checkpoint.manifest import DamagedError, Manifest, Origin, unseal
from hpcpar.worker.checkpoint.shelf import Shelf
from hpcpar.worker.journal import Journal
from hpcpar.worker.measure.loop import Losses
from hpcpar.worker.measure.phases import Phases
from hpcpar.worker.signals import Stop
from hpcpar.worker.team import Team

_NO_LOSSES = Losses(None, None)


class Job(NamedTuple):
    """What a keeper needs of the worker."""

    folder: RunFolder
    spec: RunSpec
    team: Team
    journal: Journal
    phases: Phases


class Keeper:
    """Saves and restores one trainer. Made by `make_keeper`."""

    def __init__(self, job: Job, learned: Any, wanted: Checkpointing, stop: Stop) -> None:
        self._job, self._learned, self._wanted, self._stop = job, learned, wanted, stop
        self._shelf = Shelf(job.folder.checkpoints)
        self._group, self._rank = job.team.control, job.team.info.rank
        self._attempt = job.team.info.attempt
        self._before: tuple[Span, ...] = ()
        self._saved = 0
        self.done = 0
        """Updates that are in the weights when training begins."""
        self.losses = _NO_LOSSES
        """Of the updates up to there."""
        self.stopped_at = 0
        """The update after which a signal ended the training; 0: none did."""
        self.safe = False
        """What was done when a signal ended the training is in a checkpoint."""

    # ------------------------------------------------------------ the loop's side

    def until_due(self, done: int, steps: int) -> int:
        """Return how many more updates may be done before a checkpoint is due, or the training is over."""
        every = self._wanted.every
        return steps - done if every is None else min(steps - done, every - done % every)

    @property
    def must_stop(self) -> bool:
        """Whether a signal asks this rank to leave; rank 0's word counts."""
        return bool(self._stop.signal_name)

    def after_window(self, done: int, steps: int, losses: Losses, *, stop: bool) -> bool:
        """Save where it is time; return True when the training is to end here."""
        stop = stop and done < steps
        every = self._wanted.every
        due = every is not None and (done % every == 0 or done == steps)
        if (due or stop) and self._saved != done:
            with self._job.phases("checkpoint"):
                self._save(done, losses)
        if stop:
            self.stopped_at, self.safe = done, self._saved == done
        return stop

    def lineage(self, done: int) -> tuple[Span, ...]:
        """Return which attempts did the updates up to `done`."""
        mine = (Span(attempt=self._attempt, first=self.done + 1, last=done),) if done > self.done else ()
        return (*self._before, *mine)

    # ------------------------------------------------------------ saving

    def _save(self, done: int, losses: Losses) -> None:
        from hpcpar.worker.checkpoint import tensors

        writing = self._shelf.writing(done, self._attempt)
        origin = Origin(
            key=self._job.spec.key,
            step=done,
            time=time.time(),
            lineage=self.lineage(done),
            loss_first=losses.first,
            loss_last=losses.last,
        )

        def finish(saved: Mapping[str, Any], files: Mapping[str, Any]) -> None:
            kind = type(self._learned.optimizer).__name__
            manifest = Manifest(origin=origin, optimizer=kind, tensors=dict(saved), files=dict(files))
            self._shelf.publish(writing, manifest, self._wanted.keep)
            self._tell(done, "written", num_bytes=sum(one.num_bytes for one in files.values()))

        try:
            tensors.save(self._learned, writing, self._group, finish)
        except tensors.SaveError as error:
            # A checkpoint is an insurance: without it the run goes on, and what was saved before is still there.
            self._tell(done, "failed", reason=str(error))
            if self._rank == 0:
                self._shelf.sweep()
        else:
            self._saved = done

    def _tell(self, step: int, outcome: str, **more: Any) -> None:
        self._job.journal.write("checkpoint", step=step, outcome=outcome, **more)

    # ------------------------------------------------------------ going on

    def restore(self) -> None:
        """Load the newest checkpoint that is whole and of this run, if there is one.

        Raises:
            RunError: it does not fit the model.
        """
        if not self._agree(self._job.folder.checkpoints.is_dir()):
            return
        with self._job.phases("restore"):
            if self._rank == 0:
                self._shelf.sweep()
            found = self._find()
            if found is not None:
                self._load(found)

    def _find(self) -> Manifest | None:
        for step in self._agree(self._shelf.steps() if self._rank == 0 else []):
            sealed, reason = self._agree(self._open(step) if self._rank == 0 else None)
            if not reason:
                manifest = unseal(sealed)
                reason = "; ".join(filter(None, self._gather(self._look_through(manifest))))
                if not reason:
                    return manifest
            if self._rank == 0:
                self._tell(step, "rejected", reason=reason)
                self._shelf.put_aside(step, self._attempt)
        return None

    def _open(self, step: int) -> tuple[bytes, str]:
        """Read a manifest on rank 0; return it, or why it will not do."""
        try:
            sealed = self._shelf.sealed_manifest(step)
            origin = unseal(sealed).origin
        except DamagedError as error:
            return b"", str(error)
        if origin.key != self._job.spec.key or origin.step != step:
            return b"", f"it was taken after step {origin.step} of run {origin.key}"
        record = self._job.folder.record()
        if record is not None and origin.time < record.ended:
            return b"", "it is older than the run's result: the run begins anew"
        return sealed, ""

    def _look_through(self, manifest: Manifest) -> str:
        """Check this rank's share of the files; return what is wrong."""
        try:
            self._shelf.check(manifest, sorted(manifest.files)[self._rank :: self._job.team.info.world_size])
        except DamagedError as error:
            return str(error)
        return ""

    def _load(self, manifest: Manifest) -> None:
        from hpcpar.worker.checkpoint import tensors

        origin = manifest.origin
        try:
            tensors.load(self._learned, self._shelf.folder(origin.step), manifest, self._group)
        except (ValueError, DamagedError) as error:
            raise RunError(Cause.DATA, f"checkpoint of step {origin.step}: {error}") from error
        self.done = self._saved = origin.step
        self._before, self.losses = origin.lineage, Losses(origin.loss_first, origin.loss_last)
        self._job.journal.write("resume", step=origin.step, lineage=msgspec.to_builtins(origin.lineage))

    def forget(self) -> None:
        """Remove checkpoints that nobody asked for, once the run has its result: they were there for its sake alone."""
        if self._wanted.every is None and self._rank == 0:
            self._shelf.remove_all_but(0)

    # ------------------------------------------------------------ among the ranks

    def _agree(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        if self._group is None:
            return value
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def _gather(self, value: str) -> list[str]:
        if self._group is None:
            return [value]
        from torch import distributed

        values = [""] * self._job.team.info.world_size
        distributed.all_gather_object(values, value, group=self._group)
        return values


def make_keeper(job: Job, trainer: Trainer, stop: Stop) -> Keeper | None:
    """Make the keeper of a run that is to have checkpoints; None for one that is not.

    Raises:
        RunError: the strategy has none, whatever the plan says.
    """
    wanted, identity = job.team.info.checkpoint, job.spec.identity
    if wanted is None:
        return None
    learned = getattr(trainer, "learned", None)
    if learned is None:
        raise RunError(Cause.LAUNCH, f"strategy {identity.strategy} on this mesh has no checkpoints")
    return Keeper(job, learned, wanted, stop)
