"""All ranks of a run, met: what they found, how they speak to each other, and how they part."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from msgspec import Struct

from hpcpar import registry
from hpcpar.errors import MissingExtraError, RunError
from hpcpar.records import Cause, Fabric, RankFacts
from hpcpar.registry import Scores
from hpcpar.runs import RunFolder
from hpcpar.spec import RunSpec
from hpcpar.worker import facts
from hpcpar.worker.facts import RankReport
from hpcpar.worker.measure import fabric
from hpcpar.worker.measure.memory import peak_device_bytes, peak_memory_bytes, peak_reserved_bytes
from hpcpar.worker.measure.usage import Used
from hpcpar.worker.measure.window import Exchange, GroupExchange, exchange_alone
from hpcpar.worker.rank import RankInfo


class _Used(Struct):
    """The fields of RankFacts that are known at the end."""

    peak_memory_bytes: int
    peak_device_bytes: int
    peak_reserved_bytes: int
    held_bytes: dict[str, int]
    train_wall_s: float | None
    train_cpu_s: float | None
    device_energy_j: float | None
    machine_energy_j: float | None
    device_utilisation: float | None
    clock_mhz: float | None


class Team(Struct, frozen=True, kw_only=True):
    """Made by `assemble` on every rank."""

    info: RankInfo
    device: Any
    """torch.device."""
    reports: list[RankReport]
    """What all ranks found, on rank 0; empty elsewhere."""
    exchange: Exchange
    """How measurements come to rank 0."""
    control: Any = None
    """The process group of all ranks on the CPU; None for one rank."""
    meeting: Any = None
    """rendezvous.Meeting; None for one rank."""

    def facts(self, used: Used | None, held: dict[str, int], *, of_children: bool = False) -> list[RankFacts]:
        """Return the facts of all ranks with what they used, on rank 0; an empty list elsewhere.

        `of_children`: what counts is the memory of what the ranks have started.
        """
        mine = _Used(
            peak_memory_bytes=peak_memory_bytes(of_children=of_children),
            peak_device_bytes=0 if of_children else peak_device_bytes(self.device),
            peak_reserved_bytes=0 if of_children else peak_reserved_bytes(self.device),
            held_bytes=held,
            train_wall_s=used.wall_s if used else None,
            train_cpu_s=used.cpu_s if used and not of_children else None,
            device_energy_j=used.device_energy_j if used else None,
            machine_energy_j=used.machine_energy_j if used else None,
            device_utilisation=used.device_utilisation if used else None,
            clock_mhz=used.clock_mhz if used else None,
        )
        everybody = [mine]
        if self.meeting is not None:
            self.meeting.tell("used", msgspec.json.encode(mine))
            if self.info.rank:
                return []
            everybody = [msgspec.json.decode(content, type=_Used) for content in self.meeting.hear("used")]
        return [
            msgspec.structs.replace(report.facts, **msgspec.structs.asdict(one))
            for report, one in zip(self.reports, everybody, strict=True)
        ]

    def prove_fabric(self) -> Fabric | None:
        """Do the all-reduce that shows what connects the ranks; the result of all on rank 0, None elsewhere."""
        if self.meeting is None:
            return None
        self.meeting.tell("fabric", msgspec.json.encode(fabric.prove(self.device, self.info.world_size)))
        if self.info.rank:
            return None
        everybody = [msgspec.json.decode(content, type=Fabric) for content in self.meeting.hear("fabric")]
        return fabric.merged(everybody)

    def gather(self, topic: str, mine: bytes, patience_s: float) -> list[bytes]:
        """Wait for all ranks and return what each of them says; the same on all."""
        if self.meeting is None:
            return [mine]
        self.meeting.tell(topic, mine)
        return list(self.meeting.hear(topic, patience_s))

    def add_up(self, mine: Scores) -> Scores | None:
        """Return the sum of all ranks' scores on rank 0; None elsewhere."""
        if self.meeting is None:
            return mine
        self.meeting.tell("scores", msgspec.json.encode(mine))
        if self.info.rank:
            return None
        everybody = [msgspec.json.decode(content, type=Scores) for content in self.meeting.hear("scores")]
        return Scores(*(sum(column) for column in zip(*everybody, strict=True)))

    def part(self) -> None:
        """Wait, for a bounded time, until all ranks are here; then give the process groups back.

        Rank 0 holds the store and leaves last. The result is written: a rank that dies here changes nothing of it.
        """
        if self.meeting is None:
            return
        from hpcpar.worker import group

        if self.info.rank:
            self.meeting.await_word("recorded")
            group.leave()
            self.meeting.tell("left", b"")
            return
        self.meeting.announce("recorded")
        group.leave()
        self.meeting.tell("left", b"")
        with contextlib.suppress(RunError):
            self.meeting.hear("left")


def assemble(spec: RunSpec, info: RankInfo, folder: RunFolder) -> Team:
    """Find this rank's device and meet the others.

    Raises:
        RunError: a rank did not arrive, the world is not the planned one, or there is no device.
        MissingExtraError: torch is not installed.
    """
    driver = registry.drives(spec.identity.strategy)
    planned = 1 if driver else spec.identity.world_size
    if info.world_size != planned:
        what = f"{planned} ranks were planned, the scheduler started {info.world_size}"
        raise RunError(Cause.LAUNCH, what)
    require_torch(f"strategy {spec.identity.strategy}")
    from hpcpar.worker.device import choose_device

    device = choose_device(msgspec.structs.replace(spec, gpus_per_node=0) if driver else spec, info)
    mine = facts.report(info, threads=info.cpus_asked, device=device)
    if info.world_size == 1:
        return Team(info=info, device=device, reports=[mine], exchange=exchange_alone)
    from hpcpar.worker import group, rendezvous

    meeting = rendezvous.meet(spec, info, folder)
    reports = _introduce(mine, meeting, info)
    control = group.join(spec, info, meeting, device)
    exchange = GroupExchange(control, info.rank, info.world_size)
    return Team(info=info, device=device, reports=reports, exchange=exchange, control=control, meeting=meeting)


def _introduce(mine: RankReport, meeting: Any, info: RankInfo) -> list[RankReport]:
    meeting.tell("arrived", msgspec.json.encode(mine))
    if info.rank:
        meeting.await_word("complete")
        return []
    reports = [msgspec.json.decode(content, type=RankReport) for content in meeting.hear("arrived")]
    meeting.announce("complete")
    return reports


def require_torch(needed_by: str) -> None:
    """Import torch.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "torch", needed_by) from error
