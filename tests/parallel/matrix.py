"""The parity matrix as data: every strategy x every neural workload x 1, 2, 4 and 8 ranks, beside one process.

A strategy joins with a row in ROWS, a workload with an entry in SHAPES; a test says so when one is missing. What a cell
may be is asked from the plan, as a user's study would be: it refuses with its own words, or says how the batch is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import msgspec

from hpcpar import assets, registry
from hpcpar.control.plan import make_plan
from hpcpar.decode import decode, read_toml
from hpcpar.errors import InputError, Problem
from hpcpar.profile import ClusterProfile
from hpcpar.registry import World
from hpcpar.schedules import SCHEDULES
from hpcpar.spec import Identity, Study

STEPS = 20
FIRST_LOSS = 1e-6
"""How far the first loss may be from that of one process, relatively: fp32 sums that are taken in another order."""
LOSSES = 1e-4
"""How far any of the 20 losses may be."""
WEIGHTS = 1e-4
"""How far any weight may be after 20 steps."""
SEED = 3


class Shape(NamedTuple):
    """A workload small enough for eight ranks on two cores, and large enough to be cut in eight."""

    options: dict[str, Any]
    deep: Callable[[int], dict[str, Any]]
    """The options that make it so many units deep; {} where nothing does."""
    global_batch: int
    sgd_lr: float
    """Small enough that rounding is not amplified: else two runs of one process that cut their batch differently are as
    far from each other as two strategies (the row `single` shows it under "accumulate")."""
    deep_sgd_lr: float | None = None
    """The same for models of DEEP units and more, where it must be smaller still."""


SHAPES: dict[str, Shape] = {
    "mlp": Shape({"hidden": 32}, lambda units: {"layers": units - 1}, 32, sgd_lr=0.05),
    "llama-tiny": Shape(
        {"dim": 32, "heads": 16, "kv_heads": 8, "hidden": 48, "sequence": 16},
        lambda units: {"layers": units - 2},
        16,
        sgd_lr=0.005,
    ),
    "vgg11": Shape({"width": 4, "classifier": 16}, lambda units: {}, 16, sgd_lr=0.005),
    "cnn": Shape({"width": 4}, lambda units: {}, 16, sgd_lr=0.005),
    "conv-autoencoder": Shape({"width": 4}, lambda units: {}, 16, sgd_lr=0.005),
    "nbow": Shape({"dim": 16, "hidden": 32, "data": {"vocabulary": 512}}, lambda units: {}, 16, sgd_lr=0.05),
    "seq2seq": Shape(
        {"dim": 16, "hidden": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "max_grad_norm": 0.0},
        lambda units: {},
        16,
        sgd_lr=0.005,
    ),
    "llama-moe": Shape(
        {"dim": 32, "heads": 8, "kv_heads": 8, "hidden": 24, "sequence": 16, "experts": 8},
        lambda units: {"layers": units - 2},
        16,
        sgd_lr=0.005,
    ),
    "llama-lora": Shape(
        {"dim": 32, "heads": 16, "kv_heads": 8, "hidden": 48, "sequence": 16, "rank": 4},
        lambda units: {"layers": units},
        16,
        sgd_lr=0.001,
        deep_sgd_lr=0.00025,
    ),
}
UNITS = 4
"""How deep a model is where no pipeline needs more."""
DEEP = 16
SAME_CODE = dict.fromkeys(["llama-15m", "llama-160m", "llama-1b", "llama-7b", "llama-8b"], "llama-tiny")
"""Workloads that are another size of one in SHAPES."""

UNEVEN_ALREADY = {"seq2seq"}
"""Workloads whose own samples differ in weight."""
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.01},
}


class Row(NamedTuple):
    """A strategy with some of its options."""

    strategy: str
    options: dict[str, Any] = {}
    stages: int = 0
    """A pipeline over all ranks, with so many stages on each: the model has a unit for every stage."""
    one_process: bool = False
    """It has one rank whatever the study says: the columns of four ranks are those of one."""
    plant_on: int = -1
    """The rank whose optimizer gets the wrong gradient; where only rank 0 has one, it is rank 0."""
    weights_on: tuple[int, ...] | None = None
    """The ranks that hold the final weights, where not all do."""
    own_world: bool = False
    """All processes of the pool are its ranks, whatever it is told: one rank needs a pool of one."""
    differs: dict[str, str] = {}
    """Columns ("adamw", "clip") in which several ranks compute something else by the strategy's own rule, and why."""

    def __str__(self) -> str:
        return " ".join([self.strategy, *(_word(*item) for item in self.options.items())])


def _word(name: str, value: Any) -> str:
    if value is True:
        return name
    return str(value) if name in ("mesh", "schedule") else f"{name}={value}"


KINDS = {"neural", "mixture-of-experts", "adapters"}
PIPELINES = [Row("pp", {"schedule": name}, stages=facts.stages_per_rank) for name, facts in SCHEDULES.items()]
SPLIT = [name for name, facts in SCHEDULES.items() if facts.splits_backward]
NOT_LINEAR = "AdamW is not linear in the gradient: averaging after it is not averaging before it"
ROWS: list[Row] = [
    Row("single", one_process=True),
    Row("layerwise", one_process=True),
    Row("dp", one_process=True),
    Row("ddp"),
    Row("ddp", {"static_graph": True}),
    Row("fsdp"),
    Row("fsdp", {"reshard_after_forward": False}),
    Row("fsdp", {"cpu_offload": True}),
    Row("fsdp", {"shard_size": 2}),
    Row("tp"),
    Row("tp", {"sequence_parallel": True}),
    Row("tp", {"sequence_parallel": True, "loss_parallel": True}),
    Row("tp", {"degree": 2}),
    Row("cp"),
    Row("cp", {"degree": 2}),
    *PIPELINES,
    Row("ep"),
    Row("ep", {"degree": 2}),
    Row("hybrid"),
    *(Row("hybrid", {"mesh": "pp=2,dp=-1", "schedule": name}) for name in ("interleaved-1f1b", *SPLIT)),
    Row("hybrid", {"mesh": "pp=2,dp_shard=-1"}),
    *(
        Row("hybrid", {"mesh": "pp=2,dp_shard=-1", "schedule": name})
        for name in ("gpipe", "looped-bfs", "interleaved-1f1b", *SPLIT)
    ),
    Row("hybrid", {"mesh": "pp=2,tp=-1"}),
    *(Row("hybrid", {"mesh": "pp=2,tp=-1", "schedule": name}) for name in SPLIT),
    Row("hybrid", {"mesh": "pp=2,cp=-1"}),
    Row("hybrid", {"mesh": "dp_shard=2,tp=-1"}),
    Row("hybrid", {"mesh": "dp_shard=2,cp=-1"}),
    Row("hybrid", {"mesh": "cp=2,tp=-1", "sequence_parallel": True}),
    Row("hybrid", {"mesh": "dp=2,dp_shard=2,tp=-1"}),
    Row("hybrid", {"mesh": "pp=2,dp_shard=2,tp=-1", "sequence_parallel": True}),
    Row("localsgd", {"period": 1}, differs={"adamw": NOT_LINEAR, "clip": "every replica clips its own gradient"}),
    Row("localsgd", {"period": 5, "warmup": STEPS}),
    Row("async", {"staleness_bound": 0}, plant_on=0, weights_on=(0,)),
    *(Row("deepspeed-zero", {"stage": stage}, own_world=True) for stage in (1, 2)),
    Row("deepspeed-zero", {"stage": 3, "persistence_threshold": 0}, own_world=True),
    Row("deepspeed-zero", {"stage": 2, "offload_optimizer": True}, own_world=True),
    Row("deepspeed-zero", {"stage": 3, "offload_optimizer": True, "offload_parameters": True}, own_world=True),
    Row("deepspeed-tp", own_world=True),
    Row("deepspeed-tp", {"degree": 2}, own_world=True),
    Row("deepspeed-pp", stages=1, own_world=True),
    Row("deepspeed-pp", {"stages": 2}, own_world=True),
    Row("horovod", own_world=True),
]


def missing(row: Row) -> str:
    """Return the package without which a row cannot be run here; "" where nothing is missing."""
    packages = (name for name in ("deepspeed", "horovod") if name in registry.get_strategy(row.strategy).extras)
    return next((name for name in packages if find_spec(name) is None), "")


class Column(NamedTuple):
    """How many ranks, which optimizer, and what is special."""

    name: str
    ranks: int
    optimizer: str
    special: str = ""


PLAIN = [Column(f"{ranks} {optimizer}", ranks, optimizer) for ranks in (1, 2, 4, 8) for optimizer in OPTIMIZERS]
CLIP_TO = 0.05
SPECIAL = {
    "clip": f"gradients clipped to a length of {CLIP_TO:g}",
    "accumulate": "twice as many micro-batches, of half the size",
    "uneven": "a third of the samples is padding, and some of their ranks have nothing else",
    "recompute": "activation_checkpointing=full",
}
COLUMNS = [*PLAIN, *(Column(name, 4, "sgd", name) for name in SPECIAL)]
"""The special columns are with SGD: AdamW does not notice a gradient that is a multiple of the right one."""


class Job(NamedTuple):
    """What the ranks are told: who they are, and what is not an option of the workload."""

    identity: Identity
    padded: bool = False


class Cell(NamedTuple):
    """A place of the matrix: a job and its references, or the reason why there is none."""

    workload: str
    row: Row
    column: Column
    job: Job | None
    refusal: str = ""

    @property
    def ranks(self) -> int:
        """Processes that it takes."""
        return self.job.identity.mesh.world_size if self.job else 0

    @property
    def differs(self) -> str:
        """Why the strategy computes something else here, by its own rule; "" where it does not."""
        if self.ranks == 1:
            return ""
        return self.row.differs.get(self.column.special) or self.row.differs.get(self.column.optimizer, "")

    @property
    def reference(self) -> Job:
        """One process, the batch in one piece."""
        return self._single(1)

    @property
    def twin(self) -> Job:
        """One process with the same micro-batches one after the other: what may be equal to the last bit."""
        assert self.job is not None
        return self._single(self.job.identity.global_batch // self.job.identity.micro_batch)

    def _single(self, grad_accum: int) -> Job:
        assert self.job is not None
        mine = self.job.identity
        alone = _plan("single", {}, mine.workload, mine.workload_options, 1, mine.global_batch, None)
        micro_batch = mine.global_batch // grad_accum
        return Job(msgspec.structs.replace(alone, grad_accum=grad_accum, micro_batch=micro_batch), self.job.padded)


def neural_workloads() -> list[str]:
    """Return the workloads of the registry that are trained, but for other sizes of one."""
    found = []
    for name in registry.WORKLOADS:
        work = registry.get_workload(name)
        if work.declare(work.Options()).kind in KINDS and name not in SAME_CODE:
            found.append(name)
    return found


def cells(workloads: list[str] | None = None) -> Iterator[Cell]:
    """Yield the matrix, row by row."""
    for workload in workloads or neural_workloads():
        for row in ROWS:
            for column in COLUMNS:
                yield cell(workload, row, column)


def refusals() -> Iterator[str]:
    """Yield what is refused and why, a line a row and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in cells():
        if one.job is None:
            found.setdefault((f"{one.workload}: {one.row}", one.refusal), []).append(one.column.name)
    for (place, why), columns in found.items():
        yield f"{place} | {', '.join(columns)} | {why}"


def cell(workload: str, row: Row, column: Column) -> Cell:
    """Ask the plan for one place of the matrix."""
    try:
        return Cell(workload, row, column, _job(workload, row, column))
    except InputError as error:
        return Cell(workload, row, column, None, _words(error.problems[0]))


def _words(problem: Problem) -> str:
    """Return a refusal without the place in the study, but for the option that it is about."""
    option = problem.where.rpartition(": ")[2]
    if problem.what == "unknown key":
        return f"it has no option {option}"
    return problem.what if not option or option.startswith("strategy ") else f"{option}: {problem.what}"


def _job(workload: str, row: Row, column: Column) -> Job:
    shape = SHAPES[workload]
    ranks = column.ranks if not column.special else _fewest(row, column.ranks)
    units = max(UNITS, ranks * row.stages)
    options = {**shape.options, **shape.deep(units), **OPTIMIZERS[column.optimizer]}
    if column.optimizer == "sgd":
        options["lr"] = shape.sgd_lr if units < DEEP else shape.deep_sgd_lr or shape.sgd_lr
    strategy_options = dict(row.options)
    if column.special == "clip":
        options["max_grad_norm"] = CLIP_TO
    if column.special == "recompute":
        strategy_options["activation_checkpointing"] = "full"
    arguments = (row.strategy, strategy_options, workload, options, ranks, shape.global_batch)
    identity = _plan(*arguments, None)
    if column.special == "accumulate":
        if identity.micro_batch == 1:
            raise InputError(Problem("", "the micro-batches have one sample each: none can be cut in two"))
        identity = _plan(*arguments, identity.micro_batch // 2)
    if column.special == "uneven" and workload in UNEVEN_ALREADY:
        raise InputError(Problem("", "its samples differ in weight in every other column too"))
    return Job(identity, padded=column.special == "uneven")


def _fewest(row: Row, most: int) -> int:
    """Return how few ranks a row takes and still has every axis of a mesh that it has on `most`."""
    if row.one_process:
        return 1
    strategy = registry.get_strategy(row.strategy)
    options = msgspec.convert(row.options, strategy.Options)
    try:
        few, many = (strategy.layout(World(1, ranks), options).label() for ranks in (2, most))
    except ValueError:
        return most
    axes = [{axis.partition("=")[0] for axis in label.split()} for label in (few, many)]
    return 2 if axes[0] == axes[1] else most


@cache
def _profile() -> ClusterProfile:
    path = assets.builtin_folder("clusters") / "local.toml"
    return decode(ClusterProfile, read_toml(path), "local.toml")


def _plan(
    strategy: str,
    strategy_options: dict[str, Any],
    workload: str,
    workload_options: dict[str, Any],
    ranks: int,
    global_batch: int,
    micro_batch: int | None,
) -> Identity:
    """Plan a run of one node.

    Raises:
        InputError: the plan refuses it.
    """
    study = Study(
        workload=workload,
        workload_options=workload_options,
        strategies=({"name": strategy, "options": strategy_options},),
        ranks_per_node=ranks,
        global_batch=global_batch,
        micro_batch=micro_batch,
        steps=STEPS,
        seed=SEED,
    )
    study = msgspec.convert(msgspec.to_builtins(study), Study)
    return make_plan(study, _profile(), "matrix").runs[0].spec.identity
