"""Names of strategies and workloads to code, loaded on demand; and what the code behind a name must offer.

The control wing reads a strategy's layout and a workload's declaration on the login node, the worker builds them in
the job: both come through here, so that the wings need not import each other. What is loaded is light: torch, xgboost
and the like are imported inside `build` and `load` only.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from hpcpar.errors import InputError, Problem, nearest
from hpcpar.mesh import Mesh

STRATEGIES = {
    "single": "hpcpar.worker.strategies.single:STRATEGY",
    "ddp": "hpcpar.worker.strategies.ddp:STRATEGY",
    "fsdp": "hpcpar.worker.strategies.fsdp:STRATEGY",
    "tp": "hpcpar.worker.strategies.tp:STRATEGY",
    "cp": "hpcpar.worker.strategies.cp:STRATEGY",
    "pp": "hpcpar.worker.strategies.pp:STRATEGY",
    "ep": "hpcpar.worker.strategies.ep:STRATEGY",
    "hybrid": "hpcpar.worker.strategies.hybrid:STRATEGY",
    "layerwise": "hpcpar.worker.strategies.layerwise:STRATEGY",
    "dp": "hpcpar.worker.strategies.dp:STRATEGY",
    "localsgd": "hpcpar.worker.strategies.localsgd:STRATEGY",
    "async": "hpcpar.worker.strategies.async_:STRATEGY",
    "clockwork": "hpcpar.worker.strategies.clockwork:STRATEGY",
    "own": "hpcpar.worker.strategies.own:STRATEGY",
    "deepspeed-zero": "hpcpar.worker.strategies.deepspeed_zero:STRATEGY",
    "deepspeed-tp": "hpcpar.worker.strategies.deepspeed_tp:STRATEGY",
    "deepspeed-pp": "hpcpar.worker.strategies.deepspeed_pp:STRATEGY",
    "horovod": "hpcpar.worker.strategies.horovod_:STRATEGY",
    "threads": "hpcpar.worker.strategies.one_node:THREADS",
    "processes": "hpcpar.worker.strategies.one_node:PROCESSES",
    "xgb-collective": "hpcpar.worker.strategies.xgb_collective:STRATEGY",
    "xgb-dask": "hpcpar.worker.strategies.xgb_dask:STRATEGY",
    "joblib-dask": "hpcpar.worker.strategies.joblib_dask:STRATEGY",
}
WORKLOADS = {
    "mlp": "hpcpar.worker.workloads.mlp:WORKLOAD",
    "vgg11": "hpcpar.worker.workloads.images:VGG11",
    "cnn": "hpcpar.worker.workloads.images:CNN",
    "conv-autoencoder": "hpcpar.worker.workloads.images:AUTOENCODER",
    "nbow": "hpcpar.worker.workloads.nbow:WORKLOAD",
    "seq2seq": "hpcpar.worker.workloads.seq2seq:WORKLOAD",
    "script": "hpcpar.worker.workloads.script:WORKLOAD",
    "llama-tiny": "hpcpar.worker.workloads.llama:TINY",
    "llama-15m": "hpcpar.worker.workloads.llama:M15",
    "llama-160m": "hpcpar.worker.workloads.llama:M160",
    "llama-1b": "hpcpar.worker.workloads.llama:B1",
    "llama-7b": "hpcpar.worker.workloads.llama:B7",
    "llama-8b": "hpcpar.worker.workloads.llama:B8",
    "llama-moe": "hpcpar.worker.workloads.moe:WORKLOAD",
    "llama-lora": "hpcpar.worker.workloads.lora:WORKLOAD",
    "clockwork": "hpcpar.worker.workloads.clockwork:WORKLOAD",
    "estimator": "hpcpar.worker.workloads.estimator:WORKLOAD",
    "xgboost": "hpcpar.worker.workloads.boosted_trees:WORKLOAD",
}
WORKER_ENTRY = "hpcpar.worker.main:run"
"""What every rank runs; the payload of a batch refers to it by name."""

Kind = Literal["strategy", "workload"]
_TABLES: dict[Kind, dict[str, str]] = {"strategy": STRATEGIES, "workload": WORKLOADS}
_ENTRY_POINTS: dict[Kind, str] = {"strategy": "hpcpar.strategies", "workload": "hpcpar.workloads"}


class World(NamedTuple):
    """The ranks of a run as the scheduler lays them out."""

    nodes: int
    ranks_per_node: int

    @property
    def size(self) -> int:
        """Ranks in all."""
        return self.nodes * self.ranks_per_node


class TensorPlan(Struct, frozen=True, kw_only=True):
    """What a workload's tensor-parallel plan allows. The plan itself is beside its units."""

    divides: int
    """The size of the axis tp must divide this number (heads, widths and the like)."""
    loss_parallel: bool = False
    """The loss can be computed from logits of which every rank has some classes."""
    sequence_parallel: bool = True
    """Between its matrices, a rank may have a slice of the sequence only."""


class ExpertPlan(Struct, frozen=True, kw_only=True):
    """What a mixture of experts is made of. Which of its modules are what is said beside its units."""

    number: int
    """Experts a layer."""
    chosen: int
    """Experts that a token is sent to."""


class Declaration(Struct, frozen=True, kw_only=True):
    """What a workload says of itself, given its options, without computing anything."""

    kind: str
    """"neural", "mixture-of-experts", "adapters" (most parameters are frozen), "boosting",
    "external-boosting" (its rows are not all in memory), "estimator", "program", "clockwork".

    Strategies say which kinds they accept.
    """
    sample_unit: str = "samples"
    tokens_per_sample: int | None = None
    num_units: int = 1
    """Into how many consecutive units the model can be cut; a pipeline cannot be deeper."""
    sequence: int | None = None
    """Length of the axis along which a sample may be cut (sequence, context parallelism); None: it has no such axis."""
    context_parallel: bool = False
    """Its units say which of their modules must know that they see a slice of the sequence only."""
    tensor: TensorPlan | None = None
    """None: the workload has no tensor-parallel plan."""
    experts: ExpertPlan | None = None
    """None: every token goes through all parameters."""
    global_batch: int = 64
    steps: int = 100
    uses_cpu: bool = True
    declares_batch: bool = True
    """False: nothing says that it does what the plan's batch says; speed-up and efficiency are withheld."""
    declares_steps: bool = True
    """False: how many steps it does is known only when it has done them."""


class Workload(Protocol):
    """What is computed. `load` returns what the strategies of its kind work with (worker/workloads says what)."""

    name: str
    summary: str
    extras: tuple[str, ...]
    Options: type[Struct]

    def declare(self, options: Any) -> Declaration:
        """Describe the work; pure and light (login node)."""

    def check(self, options: Any) -> list[Problem]:
        """List what is wrong with the options as far as the login node can see, e.g. data that is not there."""

    def load(self, options: Any, seed: int) -> Any:
        """Build it (job)."""


class StepResult(NamedTuple):
    """What a rank knows after one update. The loss may still be on the device; nobody waits for it here."""

    loss_sum: Any
    """Sum of the losses of this rank's share, or None on a rank that has none (an early pipeline stage)."""
    weight: float
    """What it was summed over; 0 where there is no loss.

    The loss of the step is sum(loss_sum) / sum(weight) over ranks.
    """
    applied: bool


class Scores(NamedTuple):
    """What a rank's share of the evaluation samples adds up to; rank 0 adds up the ranks and divides."""

    loss_sum: float
    weight: float
    score_sum: float
    score_weight: float


class Trainer(Protocol):
    """A workload under a strategy, ready to train.

    That of a program of the user's own has `run` instead of steps (worker/program). A trainer may have `learned`,
    what a checkpoint keeps (worker/learned.py); `notes`,
    sentences that rank 0 puts into the record when the training is over; `phases()`, the seconds, by name, of what the
    training contained beside steps (compiling), for the record too; `complete(records)`, called on rank 0 after
    every window's exchange, which returns the window's Step records with what only the strategy knows of them; and
    `evaluate() -> Scores`, called on every rank after the last step where the workload has something to be evaluated
    on; `small_batch` and `gradient_squares(batch)`, with which the gradient noise scale is measured where the first is
    not 0; `facts()`, called on rank 0 after the training, what the record says of the result and of how it was
    computed; `synchronous`: true where a step is over when it returns, on a GPU as well; `is_over`, true after a step,
    on all ranks, when there is nothing left to do; and `crew`, where the work is done by processes that are no ranks:
    it has what Team has of `reports` and `facts`.
    """

    def batch(self, step: int) -> Any:
        """Fetch this rank's share of the global batch of `step` (1, 2, ...)."""

    def step(self, batch: Any) -> StepResult:
        """Do one update without waiting for the device."""

    def close(self) -> None:
        """Give back what the strategy holds."""


class Strategy(Protocol):
    """How work is spread.

    A point of the mesh also has `engine(options) -> EngineOptions`: the composition rules apply to it.
    A strategy that looks at gradients before it uses them has `looks_at_gradients`: workloads may ask to skip those
    that are not finite (neural.NeuralWorkload.nonfinite).
    A strategy whose trainers have `learned` (worker/learned.py) can be checkpointed; it says so with `no_checkpoints`,
    which is "" then, and else the reason why it cannot.
    A strategy with `drives` is one process, the driver, which starts a job with workers: nodes and ranks of the world
    are theirs.
    """

    name: str
    summary: str
    kinds: frozenset[str]
    extras: tuple[str, ...]
    Options: type[Struct]

    def layout(self, world: World, options: Any) -> Mesh:
        """Lay the ranks out; pure and light (login node).

        Raises:
            ValueError: this world cannot be laid out so; the sentence says why.
        """

    def build(self, context: Any, workload: Any, options: Any) -> Trainer:
        """Build the trainer (job); `context` is the worker's JobContext, `workload` what Workload.load returned."""


def drives(strategy: str) -> bool:
    """Say whether a strategy is a driver, with workers in a job of their own."""
    return bool(getattr(get_strategy(strategy), "drives", False))


def load(reference: str) -> Any:
    """Import what "module:object" names."""
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


def names(kind: Kind) -> list[str]:
    """Return all known names of a kind, those of other packages' entry points included."""
    return sorted({*_TABLES[kind], *_plugins(kind)})


def get_strategy(name: str) -> Strategy:
    """Return the strategy of that name.

    Raises:
        InputError: unknown; with the nearest name.
    """
    strategy: Strategy = _get("strategy", name)
    return strategy


def get_workload(name: str) -> Workload:
    """Return the workload of that name.

    Raises:
        InputError: unknown; with the nearest name.
    """
    workload: Workload = _get("workload", name)
    return workload


def _get(kind: Kind, name: str) -> Any:
    builtin = _TABLES[kind].get(name)
    if builtin:
        return load(builtin)
    plugin = _plugins(kind).get(name)
    if plugin is None:
        raise InputError(Problem(f"{kind} '{name}'", "is not known", nearest(name, names(kind))))
    return plugin()


def _plugins(kind: Kind) -> dict[str, Callable[[], Any]]:
    # 20 ms: only for names that are not built in, and for listings.
    from importlib.metadata import entry_points

    return {point.name: point.load for point in entry_points(group=_ENTRY_POINTS[kind])}
