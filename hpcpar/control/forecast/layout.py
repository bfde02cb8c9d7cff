"""One rank of a planned run, as the forecast sees it: which units it has, and how they are computed. Pure."""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

import msgspec

from hpcpar import composition, registry
from hpcpar.control.forecast.engines import ENGINES, Engine, Meeting, Server, Zero
from hpcpar.mesh import Mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.profile import ClusterProfile
from hpcpar.schedules import SCHEDULES, partition, stages_of
from hpcpar.shapes import Case, Model, UnitShape
from hpcpar.spec import Identity


class Layout(NamedTuple):
    """How a run spreads its work."""

    mesh: Mesh
    engine: EngineOptions
    micro_batch: int
    grad_accum: int
    gpu: bool
    ranks_per_node: int
    beside: Engine | None = None
    """What another engine than the mesh's own does."""
    matrices_only: bool = False
    sharing: float = 1.0
    """How many ranks take turns on the processors that one of them is said to have."""

    @property
    def zero(self) -> Zero | None:
        """What DeepSpeed shards; None without it."""
        return self.beside if isinstance(self.beside, Zero) else None

    @property
    def alone(self) -> bool:
        """Replicas do not speak to one another while a backward pass goes on."""
        return isinstance(self.beside, Meeting | Server)

    @property
    def virtual(self) -> int:
        """Stages of a pipeline on each of its ranks; 1 without a pipeline."""
        return composition.stages_per_rank(self.engine) if self.mesh.pp > 1 else 1

    @property
    def case(self) -> Case:
        """What changes the shapes inside its units."""
        mesh, engine = self.mesh, self.engine
        return Case(
            tp=mesh.tp,
            cp=mesh.cp,
            ep=mesh.ep,
            precision="bf16" if engine.precision == "fp8" else engine.precision,
            activation_checkpointing=engine.activation_checkpointing,
            sequence_parallel=engine.sequence_parallel and mesh.tp > 1,
            loss_parallel=engine.loss_parallel and mesh.tp > 1,
            capacity=engine.capacity,
            gpu=self.gpu,
            matrices_only=self.matrices_only and mesh.tp > 1,
        )


class Stage(NamedTuple):
    """Consecutive units on one rank."""

    units: tuple[UnitShape, ...]
    first: bool
    last: bool
    neighbours: int
    """Stages before and after it that are on another rank."""


SHAPED = frozenset({"neural", "mixture-of-experts", "adapters"})
"""Kinds of workload whose models have shapes to read."""
UNKNOWN = "no model of what strategy {} holds and does"
DEVICES = "no model of several GPUs in one process: on a GPU, {} has one"


def host_cpus(profile: ClusterProfile) -> int | None:
    """Return how many processors the nodes of a cluster have together where they are one machine: this one."""
    return len(os.sched_getaffinity(0)) if profile.scheduler == "local" else None


def layout_of(identity: Identity, gpu: bool, cpus: int | None = None) -> Layout | str:
    """Read the layout off a planned run, or say why there is none.

    Args:
        identity: the run.
        gpu: whether a rank computes on one.
        cpus: the processors of all nodes together, where ranks may have to take turns on them.
    """
    if gpu and identity.mesh.cp > 1:
        return "cp runs on CPUs only so far: its attention is built on torch's CPU kernel"
    strategy = registry.get_strategy(identity.strategy)
    options: Any = msgspec.convert(identity.strategy_options, strategy.Options)
    engine, beside = EngineOptions(), None
    if hasattr(strategy, "engine"):
        engine = strategy.engine(options)
    elif identity.strategy in ENGINES:
        beside = ENGINES[identity.strategy](identity.mesh, options)
        if beside is None and gpu:
            return DEVICES.format(identity.strategy)
    else:
        return UNKNOWN.format(identity.strategy)
    return Layout(
        identity.mesh,
        engine,
        identity.micro_batch,
        identity.grad_accum,
        gpu,
        identity.ranks_per_node,
        beside,
        matrices_only=identity.strategy == "deepspeed-tp",
        sharing=max(1.0, identity.world_size * identity.cpus_per_rank / cpus) if cpus else 1.0,
    )


def pace(layout: Layout, identity: Identity) -> str:
    """Return what the rates of a rank depend on beside its node: the precision, and on CPUs how many it has."""
    precision = layout.case.precision
    return precision if layout.gpu else f"{precision} on {identity.cpus_per_rank} CPUs"


def stages_on(model: Model, layout: Layout, place: int) -> list[Stage]:
    """Return the stages of the pipeline's rank `place`; the whole model without one."""
    units = model.units
    if layout.mesh.pp == 1:
        return [Stage(tuple(units), True, True, 0)]
    number = layout.mesh.pp * layout.virtual
    bounds = _bounds(tuple(unit.whole for unit in units), number)
    mine = stages_of(SCHEDULES[layout.engine.schedule], place, layout.mesh.pp, layout.virtual)
    found = []
    for i in mine:
        others = sum(0 <= other < number and other not in mine for other in (i - 1, i + 1))
        found.append(Stage(tuple(units[bounds[i] : bounds[i + 1]]), i == 0, i == number - 1, others))
    return found


@functools.cache
def _bounds(weights: tuple[int, ...], parts: int) -> tuple[int, ...]:
    return partition(weights, parts)


def in_flight(layout: Layout, place: int) -> int:
    """Return how many passes through a stage a rank of a pipeline keeps at a time, for as many stages as it has.

    GPipe and 1F1B: Narayanan et al. 2021 (arXiv:2104.04473), section 2.2; interleaved: section 2.2.2, as Megatron-LM
    counts its warm-up passes. The others are bounds: ZB-H1 keeps what 1F1B does (Qi et al. 2023, arXiv:2401.10241,
    table 2), ZB-V and DualPipeV p and p + 1 passes through both of their stages.
    """
    p, m, v = layout.mesh.pp, layout.grad_accum, layout.virtual
    if p == 1:
        return 1
    name = layout.engine.schedule
    if name in {"gpipe", "looped-bfs"}:
        return m * v
    if name == "1f1b":
        return min(m, p - place)
    if name in {"interleaved-1f1b", "zero-bubble"}:
        return min(m * v, 2 * (p - place - 1) + (v - 1) * p + 1)
    return min(m * v, (p + (name == "dualpipev")) * v)


def facts(layout: Layout) -> dict[str, Any]:
    """Return the layout as data, for people who read JSON."""
    return {"mesh": msgspec.to_builtins(layout.mesh), "engine": msgspec.to_builtins(layout.engine)}
