"""The data types that the wings exchange: who writes what, once.

Study       by the scientist (jobs/NAME.toml, or flags)     RunSpec  by `plan` alone, never by hand
Submission  by `submit`, one line an attempt                ClusterProfile (profile.py)  by the site
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from hpcpar.mesh import Mesh, Positive
from hpcpar.policy import Policy
from hpcpar.profile import Name
from hpcpar.units import parse_duration, parse_memory

SCHEMA = 1
UNDECLARED = "undeclared"
"""The scaling of runs of which nothing says that they do what the plan's batch says."""
SinkName = Literal["tensorboard", "wandb", "mlflow"]


# ---------------------------------------------------------------- the scientist's words


class StrategyChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A strategy of a study with its options."""

    name: str
    mesh: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[Positive, ...] = ()
    """Node counts of this strategy alone, where it cannot do all of the study's (`single`)."""


class Checkpointing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a run can go on where it was interrupted. It changes nothing that is computed, so it is in no key."""

    every: Positive | None = None
    """Updates between two checkpoints, and one after the last. Not given: only on a signal before the time limit."""
    keep: Positive = 2
    """How many are kept: where the newest is damaged, the one before is used."""
    before_limit: str = ""
    """How long before the time limit Slurm tells the run to save and leave; Slurm may be 30 s late. Not given: 90 s, or
    a quarter of the time limit where that is less."""
    requeue: bool | None = None
    """Let a run that left so go back into the queue by itself. Not given: as the cluster's profile says."""

    def __post_init__(self) -> None:
        if self.before_limit:
            parse_duration(self.before_limit)


class Study(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One experiment grid: workload x strategies x nodes x repeats."""

    schema: Literal[1] = 1
    name: Name = "study"
    description: str = ""
    cluster: str = ""
    node_type: str = ""
    workload: str = "llama-tiny"
    workload_options: dict[str, Any] = field(default_factory=dict)
    variants: tuple[dict[str, Any], ...] = ()
    """Sets of workload options, each added to `workload_options`: the whole grid is run with every one of them."""
    strategies: tuple[str | StrategyChoice, ...] = ("ddp",)
    nodes: tuple[Positive, ...] = (1,)
    ranks_per_node: Positive | None = None
    cpus_per_rank: Positive | None = None
    scaling: Literal["strong", "weak"] = "strong"
    global_batch: Positive | None = None
    """Samples an update at the smallest size; weak scaling grows it with the number of ranks."""
    micro_batch: Positive | None = None
    steps: Positive | None = None
    warmup_steps: Annotated[int, Meta(ge=0)] | None = None
    """Steps that the collector leaves out; they are recorded all the same, so the cut can be changed later. Not given:
    until the step time is steady, at least 10."""
    quick: bool = False
    """A look: at most 30 steps, one repeat. Tables say so."""
    diagnose_steps: Annotated[int, Meta(ge=0, le=1000)] = 0
    """So many steps after the training, off the timed window, that measure exposed communication and the gradient noise
    scale; 0: none."""
    repeats: Annotated[int, Meta(ge=1, le=1000)] = 1
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    time: str = ""
    memory: str = ""
    account: str = ""
    qos: str = ""
    partition: str = ""
    constraint: str = ""
    python: str = ""
    sinks: tuple[SinkName, ...] = ()
    """Tools that show a run while it goes on, beside its own records."""
    checkpoint: Checkpointing | None = None
    """Checkpoints of every run. Not given: none, except before the time limit where jobs are requeued."""
    policy: Policy | None = None
    """What follows a failure, by cause. Not given: nothing."""
    paired: bool = False
    """Runs of one size and repeat share a job: on the same nodes, one after the other, in an order that is drawn."""
    max_queued: Annotated[int, Meta(ge=0)] = 0
    """How many jobs the user wants in the queue at a time, those of other studies counted; 0: any number."""

    def __post_init__(self) -> None:
        if self.time:
            parse_duration(self.time)
        if self.memory:
            parse_memory(self.memory)
        if len(set(self.nodes)) != len(self.nodes):
            raise ValueError(f"nodes {list(self.nodes)}: a size is given twice")
        if any(self.variants.count(variant) > 1 for variant in self.variants):
            raise ValueError("variants: two of them are the same")
        if not self.strategies or not self.nodes:
            raise ValueError("a study needs at least one strategy and one node count")

    def by_variant(self) -> list[Study]:
        """Return a study without variants for each variant; the study itself where it has none."""
        return [
            msgspec.structs.replace(self, workload_options={**self.workload_options, **variant}, variants=())
            for variant in self.variants or ({},)
        ]

    def choices(self) -> list[StrategyChoice]:
        """Return the strategies with their options."""
        return [StrategyChoice(name=s) if isinstance(s, str) else s for s in self.strategies]


# ---------------------------------------------------------------- what plan makes


class Identity(Struct, frozen=True, kw_only=True):
    """What a run *is*: two runs with the same identity compute the same thing on the same kind of machine.

    Time limit, memory, account, paths, code version and predictions stand outside: they change nothing that is
    computed.
    """

    cluster: str
    node_type: str
    workload: str
    workload_options: dict[str, Any]
    strategy: str
    strategy_options: dict[str, Any]
    mesh: Mesh
    nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    micro_batch: int
    grad_accum: int
    global_batch: int
    steps: int
    seed: int
    repeat: int

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.nodes * self.ranks_per_node

    def key(self) -> str:
        """Return the run's key: 10 hexadecimal digits of the hash of the canonical JSON of this struct."""
        canonical = msgspec.json.encode(self, order="deterministic")
        return hashlib.sha256(canonical).hexdigest()[:10]


class RunSpec(Struct, frozen=True, kw_only=True):
    """One run, every value resolved; written before anything is submitted and never changed after."""

    schema: int = SCHEMA
    key: str
    study: str
    identity: Identity
    scaling: str
    warmup_steps: int
    until_steady: bool = False
    """`warmup_steps` is the least: the collector cuts until the step time is steady."""
    quick: bool = False
    """Fewer steps than the study asks for, to have a look."""
    diagnose_steps: int = 0
    sinks: tuple[SinkName, ...] = ()
    gpus_per_node: int = 0
    device_order: tuple[int, ...] = ()
    host_suffix: str = ""
    socket_interface: str = ""
    closed_rendezvous: bool = False
    sample_unit: str = "samples"
    tokens_per_sample: int | None = None
    declares_steps: bool = True
    """False: the run has done what its record says, not `identity.steps`."""
    workload_file: str = ""
    """Where the workload is one of the user's own: path/to/file.py:NAME, the path absolute."""
    workload_sha256: str = ""
    """Of that file, when the run was planned."""
    folder: str = ""
    """Where a program of the user's own is started."""
    uses_cpu: bool = True
    """False: the workload only sleeps, so that sharing a host's CPUs does not spoil its timing."""
    time_s: float
    code: str = ""
    """Version of hpcpar that planned the run."""
    order: int = 0
    """Place in the study's order of execution."""
    pair: str = ""
    """Runs that share an allocation for comparison carry the same word."""
    billing: dict[str, Any] = field(default_factory=dict)
    """Reserved: charge factor and unit at submission."""
    prediction: dict[str, Any] = field(default_factory=dict)
    """Reserved: what the plan expected."""

    @property
    def run_name(self) -> str:
        """The name of the run's folder. Opaque: nobody parses it."""
        return f"{self.key}-r{self.identity.repeat}"


class Resources(Struct, frozen=True, kw_only=True):
    """What an array asks of the scheduler; runs that agree in all of it share an array."""

    nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    time_s: float
    gpus_per_node: int = 0
    memory: str = ""
    account: str = ""
    qos: str = ""
    partition: str = ""
    constraint: str = ""
    checkpoint: Checkpointing | None = None
    """None: no checkpoints."""
    signal_s: int = 0
    """How long before the time limit the ranks are sent SIGUSR1; 0: never."""
    requeue: bool = False
    """A run that left before its time limit goes back into the queue."""
    requeue_on_fault: bool = False
    """The scheduler may put the job back into the queue after a preemption or a node's failure."""
    hang_after_s: float = 0.0
    """A rank that begins no step for so long hangs; 0: the study does not say."""
    exclude: tuple[str, ...] = ()
    """Nodes that are not wanted."""
    run_time_s: float = 0.0
    """Of a job that several runs share: how long each of them may take; 0: it has one run."""
    driver: bool = False
    """A job of one process starts a second job: nodes and ranks are those of its workers there."""


class Accounting(Struct, frozen=True, kw_only=True):
    """What the scheduler's accounting says of a job that is over, its requeues included."""

    state: str
    """How it ended, in the scheduler's word; "" where the accounting does not know the job."""
    elapsed_s: float = 0.0
    """Seconds for which it held nodes, over all its starts."""
    node_s: float = 0.0
    """Nodes times seconds, over all its starts."""
    nodes: int = 0
    """Of its last start."""
    peak_memory_bytes: int | None = None
    """MaxRSS: the largest resident set of any task; None where none was sampled."""
    energy_j: float | None = None
    """ConsumedEnergyRaw; None where the site gathers none. On nodes that are shared, others' use is in it."""


class Submission(Struct, frozen=True, kw_only=True):
    """What the control wing knows of a run's way through the scheduler; a line of submission.jsonl.

    kind "submitted": the scheduler took it. kind "ended": the scheduler says how it ended (kept, because it forgets).
    kind "accounted": what its accounting says the job used, noted once it is final.
    """

    schema: int = SCHEMA
    kind: Literal["submitted", "ended", "accounted"] = "submitted"
    time: float
    """Seconds since the epoch."""
    batch: str
    scheduler: str
    job_id: str
    """Slurm: JOBID or JOBID_TASK. Local: a word of our own."""
    script_sha256: str = ""
    gate: str = ""
    """"passed": checked before it was sent. "skipped": sent with --no-gate. "": by a version that did not say."""
    code_sha256: str = ""
    """Of the snapshot of the user's code that was sent; "" where there is none."""
    excluded: tuple[str, ...] = ()
    """Nodes that this job was kept away from."""
    shared: bool = False
    """The job has other runs too (`submit --paired`)."""
    queue: str = ""
    """Folder of the local queue that has it: of one machine and one state folder. "": Slurm, or an older version."""
    state: str = ""
    reason: str = ""
    """Of what is submitted: why, where nobody asked for it by `submit`. Of what has ended: the scheduler's word."""
    exit_code: str = ""
    accounting: Accounting | None = None
