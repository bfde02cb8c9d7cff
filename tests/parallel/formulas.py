"""What a rank should hold and move, from sizes alone. The tests put beside it what real tensors and calls show.

All in bytes, fp32. Words: N parameters of this rank's stages, of which tp splits some; T tokens of this data rank in a
step, D the width of the model, V its classes; m micro-batches; n the ranks of an axis.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import matrix
import msgspec
import torch
from matrix import Job, Row
from matrix_cases import load

from hpcpar import composition, registry
from hpcpar.mesh_options import EngineOptions
from hpcpar.schedules import SCHEDULES, partition, stages_of
from hpcpar.worker.mesh_engine.experts import slots
from hpcpar.worker.neural import Unit

BYTES = 4
COUNT_BYTES = 8
SPLIT_BY_TP = {
    "vocabulary": ("weight",),
    "row": ("weight",),
    "column": ("weight", "bias"),
    "logits": ("weight", "bias"),
}
"""The style of a module -> its parameters that tp splits."""
MOMENTS = {"sgd": 1, "adamw": 2}
"""Tensors of the size of a parameter that an optimizer keeps (sgd with momentum)."""


OTHERS = ("async", "deepspeed-zero", "deepspeed-tp", "deepspeed-pp", "horovod")
"""Strategies of which other threads or other libraries send."""
EXPERTS = [Row("ep", {"capacity": 1.0}), Row("ep", {"degree": 2, "capacity": 1.0})]
"""With as much room for every expert: how many tokens travel does not depend on where the router sends them."""


def has_ledger(row: Row) -> bool:
    """Say whether there are formulas for a row: every step is alike, and one thread of a rank sends all."""
    return row.strategy not in (*OTHERS, "ep") and not row.options.get("warmup")


def rows() -> list[Row]:
    """Return all rows that have formulas."""
    return [*filter(has_ledger, matrix.ROWS), *EXPERTS]


def workload_of(row: Row) -> str:
    """Return the workload that a row is counted on."""
    return "llama-moe" if row.strategy == "ep" else "llama-tiny"


class Size(NamedTuple):
    """Numbers of parameters."""

    whole: int
    """The same on every rank of tp."""
    split: int
    """Spread over tp."""
    experts: int = 0
    """Spread over ep."""

    def on(self, tp: int) -> int:
        """Return what one rank of tp has, experts aside."""
        return self.whole + self.split // tp


def size_of(units: tuple[Unit, ...]) -> Size:
    """Count the parameters of some units, by what tp does with them."""
    whole = split = experts = 0
    for unit in units:
        with torch.device("meta"):
            module = unit.build()
        cut = {
            f"{path}.{name}".lstrip(".") for path, style in unit.tensor.items() for name in SPLIT_BY_TP.get(style, ())
        }
        spread = tuple(f"{path}." for path, style in unit.experts.items() if style == "experts")
        for name, parameter in module.named_parameters():
            if name in cut:
                split += parameter.numel()
            elif spread and name.startswith(spread):
                experts += parameter.numel()
            else:
                whole += parameter.numel()
    return Size(whole, split, experts)


def stages_on(job: Job, options: EngineOptions, rank: int) -> list[tuple[Unit, ...]]:
    """Return the units of every stage of a rank; one stage without a pipeline."""
    units, mesh = load(job).units, job.identity.mesh
    if mesh.pp == 1:
        return [units]
    turns = composition.stages_per_rank(options)
    bounds = partition([sum(size_of((unit,))) for unit in units], mesh.pp * turns)
    mine = stages_of(SCHEDULES[options.schedule], mesh.coordinates(rank)["pp"], mesh.pp, turns)
    return [units[bounds[i] : bounds[i + 1]] for i in mine]


def engine(job: Job) -> EngineOptions:
    """Return what the engine is asked for; the defaults for strategies that are not of the mesh."""
    strategy = registry.get_strategy(job.identity.strategy)
    options = msgspec.convert(job.identity.strategy_options, strategy.Options)
    made: EngineOptions = strategy.engine(options) if hasattr(strategy, "engine") else EngineOptions()
    return made


def held(job: Job, rank: int) -> tuple[int, int, int]:
    """Return bytes of parameters, gradients, moments: 4, 4 and 8 (AdamW) or 4 (SGD) a parameter that the rank has."""
    mesh = job.identity.mesh
    stages = [size_of(stage) for stage in stages_on(job, engine(job), rank)]
    mine = sum(size.on(mesh.tp) for size in stages) // mesh.dp_shard + sum(size.experts for size in stages) // mesh.ep
    moments = MOMENTS[job.identity.workload_options["optimizer"]]
    return BYTES * mine, BYTES * mine, BYTES * moments * mine


def moved(job: Job, rank: int) -> dict[str, int]:
    """Return the payload of a step by collective: what is added up, gathered or scattered, and what is sent."""
    options, found = engine(job), Counter[str]()
    if job.identity.strategy == "localsgd":
        return _of_meetings(job)
    for part in (_of_gradients, _of_tensor, _of_sequence, _of_experts, _of_pipeline):
        found.update(part(job, options, rank))
    return {collective: size for collective, size in found.items() if size}


def _of_meetings(job: Job) -> dict[str, int]:
    """Each meeting: parameters and moments, and the weight of the share."""
    assert job.identity.strategy_options["period"] == 1, "a step with a meeting"
    parameters, _, moments = held(job, 0)
    return {"all-reduce": parameters + moments + BYTES}


def _of_gradients(job: Job, options: EngineOptions, rank: int) -> dict[str, int]:
    """Data parallel axes: 4 N added up, or gathered for every use and scattered once."""
    mesh, m = job.identity.mesh, job.identity.grad_accum
    n4 = BYTES * sum(size_of(stage).on(mesh.tp) for stage in stages_on(job, options, rank))
    found: Counter[str] = Counter()
    if mesh.dp_shard > 1:
        reshards = composition.reshards(mesh, options)
        # Without a pipeline both passes of each micro-batch gather; under one, the weights stay from the first backward
        # pass on where nothing gives them back in between.
        gathers = (2 * m if mesh.pp == 1 else m + 1) if reshards else (m if mesh.pp == 1 else 1)
        found["all-gather"] += gathers * n4
        found["reduce-scatter"] += n4
        found["all-reduce"] += n4 // mesh.dp_shard if mesh.dp_replicate > 1 else 0
    elif mesh.dp_replicate > 1:
        found["all-reduce"] += n4 * (m if options.static_graph and mesh.pp == 1 else 1)
    if mesh.cp > 1:
        found["all-reduce"] += n4 // mesh.dp_shard
    return found


class _Shape(NamedTuple):
    """Sizes of a Llama."""

    tokens: int
    dim: int
    classes: int
    head: int
    kv_heads: int
    samples: int
    sequence: int


def _shape(job: Job) -> _Shape:
    identity, options = job.identity, job.identity.workload_options
    samples = identity.global_batch // identity.mesh.data_ranks
    sequence = options["sequence"] // identity.mesh.cp
    head = options["dim"] // options["heads"]
    return _Shape(samples * sequence, options["dim"], 256, head, options["kv_heads"], samples, sequence)


def _count(job: Job, options: EngineOptions, rank: int, prefix: str) -> int:
    return sum(unit.name.startswith(prefix) for stage in stages_on(job, options, rank) for unit in stage)


def _of_tensor(job: Job, options: EngineOptions, rank: int) -> dict[str, int]:
    """tp: twice a block on the way forward and twice on the way back, 4 T D each; and the logits, 4 T V."""
    mesh = job.identity.mesh
    if mesh.tp == 1:
        return {}
    shape = _shape(job)
    blocks, first, last = (_count(job, options, rank, name) for name in ("block", "embedding", "head"))
    activations = BYTES * shape.tokens * shape.dim
    found: Counter[str] = Counter()
    if options.sequence_parallel:
        # Every gather of one pass is a scatter of the other; the weights of norms saw a slice of the sequence only.
        found["all-gather"] += (4 * blocks + first + last) * activations
        found["reduce-scatter"] += (4 * blocks + first + last) * activations
        found["all-reduce"] += BYTES * shape.dim * (2 * blocks + last)
    else:
        found["all-reduce"] += (4 * blocks + first + last) * activations
    if last and options.loss_parallel:
        # A token's largest logit, the sum of its exponentials, the logit of its target.
        found["all-reduce"] += 3 * BYTES * shape.tokens
    elif last:
        found["all-gather"] += BYTES * shape.tokens * shape.classes
    return found


def _of_sequence(job: Job, options: EngineOptions, rank: int) -> dict[str, int]:
    """cp: keys and values of a slice, n - 1 hops forward, n - 1 back, and n hops of their gradients."""
    mesh = job.identity.mesh
    if mesh.cp == 1:
        return {}
    shape = _shape(job)
    pair = 2 * BYTES * shape.samples * shape.kv_heads // mesh.tp * shape.sequence * shape.head
    return {"send": _count(job, options, rank, "block") * (3 * mesh.cp - 2) * pair}


def _of_experts(job: Job, options: EngineOptions, rank: int) -> dict[str, int]:
    """ep: the room of all experts for a micro-batch, there and back in both passes; and how busy the experts were."""
    mesh = job.identity.mesh
    if mesh.ep == 1:
        return {}
    shape, declared = _shape(job), load(job).declared
    blocks = _count(job, options, rank, "block")
    rows = declared.experts.number * shape.samples * slots(declared, options)  # of all micro-batches
    found = {"all-to-all": 4 * blocks * rows * BYTES * shape.dim}
    found["all-reduce"] = blocks * (declared.experts.number + 1) * COUNT_BYTES
    if mesh.data_ranks > mesh.ep:
        held_here = sum(size_of(stage).experts for stage in stages_on(job, options, rank)) // mesh.ep
        found["all-reduce"] += BYTES * held_here
    return found


def _of_pipeline(job: Job, options: EngineOptions, rank: int) -> dict[str, int]:
    """pp: 4 T D from every stage to the next one, and as much back, unless both are on this rank."""
    mesh = job.identity.mesh
    if mesh.pp == 1:
        return {}
    shape, facts, turns = _shape(job), SCHEDULES[options.schedule], composition.stages_per_rank(options)
    mine = stages_of(facts, mesh.coordinates(rank)["pp"], mesh.pp, turns)
    others = [
        stage for own in mine for stage in (own - 1, own + 1) if stage not in mine and 0 <= stage < mesh.pp * turns
    ]
    slices = mesh.tp if options.sequence_parallel else 1
    return {"send": len(others) * BYTES * shape.tokens * shape.dim // slices}
