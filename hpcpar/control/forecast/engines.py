"""What strategies beside the mesh's own engine shard, keep and send: DeepSpeed, delayed replicas, Horovod. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hpcpar.mesh import Mesh


class Zero(NamedTuple):
    """What DeepSpeed's ZeRO shards, and over how many ranks."""

    stage: int
    shards: int
    offload_optimizer: bool = False
    offload_parameters: bool = False
    persistent: int = 0
    """Stage 3 leaves parameters whole that have fewer numbers."""


class Meeting(NamedTuple):
    """Replicas that average now and then (worker/delayed/local_sgd.py)."""

    period: int
    moments: bool
    """Whether the optimizer's are averaged as well."""
    outer: bool
    """There is an outer optimizer with momentum: DiLoCo."""


class Server(NamedTuple):
    """Rank 0 keeps the parameters; all bring gradients (worker/delayed/asynchronous.py)."""

    bound: int


class Ring(NamedTuple):
    """Horovod (worker/horovod_ring.py)."""

    bytes_each: int
    """Of a number that travels."""


BUCKET = 500_000_000
"""Numbers of gradients that ZeRO 2 and 3 let gather before they are reduced (reduce_bucket_size), and"""
LIVE = 1_000_000_000
"""numbers of weights that ZeRO 3 lets stay gathered (stage3_max_live_parameters), and"""
PREFETCH = 50_000_000
"""numbers that it gathers in one piece (stage3_prefetch_bucket_size): defaults of DeepSpeed 0.19,
runtime/zero/config.py, which hpcpar does not change."""
Engine = Zero | Meeting | Server | Ring
FUSION = 128 * 2**20
"""Horovod's buffer of gradients that travel together: HOROVOD_FUSION_THRESHOLD, its default in 0.28 (docs/autotune)."""


def _zero(mesh: Mesh, options: Any) -> Engine:
    whole = options.persistence_threshold if options.stage == 3 else 0
    return Zero(options.stage, mesh.dp_shard, options.offload_optimizer, options.offload_parameters, whole)


def _replicated_zero(mesh: Mesh, _: Any) -> Engine:
    return Zero(1, mesh.dp_replicate)


def _meeting(_: Mesh, options: Any) -> Engine:
    state = options.optimizer_state
    averages = state == "average" or (state == "auto" and options.outer == "average")
    return Meeting(options.period, averages, options.outer == "nesterov")


ENGINES: dict[str, Callable[[Mesh, Any], Engine | None]] = {
    "deepspeed-zero": _zero,
    "deepspeed-tp": _replicated_zero,
    "deepspeed-pp": _replicated_zero,
    "localsgd": _meeting,
    "async": lambda _, options: Server(options.staleness_bound),
    "horovod": lambda _, options: Ring(2 if options.compression == "fp16" else 4),
    "layerwise": lambda *_: None,
    "dp": lambda *_: None,
}
"""By strategy. None: on CPUs it is one process with the whole model, as `single`."""


def delays(engine: Engine | None) -> str:
    """Say in which way an engine learns otherwise than synchronous replicas do; "" where it does not."""
    if isinstance(engine, Meeting) and engine.period > 1:
        return f"replicas meet every {engine.period} steps: learns otherwise"
    if isinstance(engine, Server) and engine.bound:
        return f"gradients up to {engine.bound} updates late: learns otherwise"
    return ""
