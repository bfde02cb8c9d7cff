"""What a study's words about checkpoints mean for a run on a cluster. Pure.

Without such words there are none, with one exception: where the cluster requeues jobs, a run saves before its time
limit, as it would begin anew otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from hpcpar.errors import Problem
from hpcpar.profile import ClusterProfile
from hpcpar.registry import Declaration
from hpcpar.spec import Checkpointing, Resources, Study
from hpcpar.units import parse_duration

_BEFORE_LIMIT_S = 90.0
"""Slurm looks every 30 s, so that its signal is up to 30 s late; the rest is for the save."""

_NOT_KEPT = {
    **dict.fromkeys(("boosting", "external-boosting"), "trees are not in a checkpoint yet"),
    "estimator": "every step is a fit of its own, of which nothing is kept",
}
"""Why a kind of workload has none, whatever the strategy."""


def with_checkpoints(resources: Resources, study: Study, profile: ClusterProfile, *, possible: bool) -> Resources:
    """Return the resources of a run with its checkpoints; `possible` says whether it can have any."""
    asked = study.checkpoint
    slurm = profile.scheduler == "slurm"
    requeue = slurm and (profile.requeue if asked is None or asked.requeue is None else asked.requeue)
    resources = replace(resources, requeue=requeue)
    if asked is None and not (requeue and possible):
        return resources
    asked = asked or Checkpointing()
    wanted = Checkpointing(every=asked.every, keep=asked.keep)
    return replace(resources, checkpoint=wanted, signal_s=_lead_s(asked, resources.time_s) if slurm else 0)


def _lead_s(asked: Checkpointing, time_s: float) -> int:
    return int(parse_duration(asked.before_limit) if asked.before_limit else min(_BEFORE_LIMIT_S, time_s / 4))


def checkpoint_problems(study: Study, why_none: str, resources: Resources, label: str) -> Iterator[Problem]:
    """Yield why a run cannot have the checkpoints that its study asks for."""
    asked = study.checkpoint
    if asked is None:
        return
    if why_none:
        fix = "leave `checkpoint` out; single, dp, layerwise and the points of the mesh have checkpoints"
        yield Problem(label, f"cannot be checkpointed: {why_none}", fix)
    lead_s = _lead_s(asked, resources.time_s)
    if lead_s >= resources.time_s:
        what = f"before_limit of {lead_s} s is not less than the time limit of {resources.time_s:g} s"
        yield Problem(f"{label}: checkpoint", what, "choose a longer time limit, or a shorter before_limit")


def why_not(strategy: Any, declared: Declaration) -> str:
    """Say why a strategy has no checkpoints with this workload; "" where it has."""
    if declared.kind in _NOT_KEPT:
        return _NOT_KEPT[declared.kind]
    return str(getattr(strategy, "no_checkpoints", "it does not say how"))
