"""What a study wants done about runs that failed, by cause: its table `[policy]`.

Part of no run's key: it changes nothing that is computed. `status` and `resubmit` apply it (control/again/policy.py).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from hpcpar.units import parse_duration

_REQUEUED_BY_SLURM = ("node_fail", "preempted")


class Reaction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What follows a failure of one cause. Without any of these: nothing, the run stays failed."""

    retry: Annotated[int, Meta(ge=0, le=1000)] = 0
    """How often the run is sent again for this cause."""
    exclude_node: bool = False
    """Keep the retry away from the nodes that the failed attempt named: of the rank that told the cause, else all."""
    requeue: bool = False
    """Let the scheduler put the job back into the queue by itself; it can after a preemption and a node's failure."""


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reaction for each cause; those that are not named are given up."""

    hang_after: str = ""
    """A rank that begins no step for so long ends the run with the cause `hung`. Not given: see worker/watchdog.py."""
    oom_host: Reaction = field(default_factory=Reaction)
    oom_device: Reaction = field(default_factory=Reaction)
    timeout: Reaction = field(default_factory=Reaction)
    preempted: Reaction = field(default_factory=Reaction)
    node_fail: Reaction = field(default_factory=Reaction)
    network: Reaction = field(default_factory=Reaction)
    hung: Reaction = field(default_factory=Reaction)
    storage: Reaction = field(default_factory=Reaction)
    data: Reaction = field(default_factory=Reaction)
    python_error: Reaction = field(default_factory=Reaction)
    killed: Reaction = field(default_factory=Reaction)
    launch: Reaction = field(default_factory=Reaction)
    vanished: Reaction = field(default_factory=Reaction)

    def __post_init__(self) -> None:
        if self.hang_after:
            parse_duration(self.hang_after)
        for cause in self.causes():
            if self.reaction(cause).requeue and cause not in _REQUEUED_BY_SLURM:
                able = " and ".join(_REQUEUED_BY_SLURM)
                raise ValueError(f"{cause}: the scheduler requeues by itself after {able} only; use retry")

    @classmethod
    def causes(cls) -> tuple[str, ...]:
        """Return the causes that can have a reaction: all but ok and cancelled."""
        return tuple(name for name in cls.__struct_fields__ if name != "hang_after")

    def reaction(self, cause: str) -> Reaction:
        """Return what follows a failure of this cause."""
        found: Reaction = getattr(self, cause) if cause in self.causes() else Reaction()
        return found

    @property
    def requeue(self) -> bool:
        """Whether the scheduler may requeue the job by itself."""
        return any(self.reaction(cause).requeue for cause in _REQUEUED_BY_SLURM)
