"""The data types that the wings exchange: who writes what, once.

ClusterProfile  by the site (clusters/NAME.toml)       Study    by the scientist (jobs/NAME.toml, or flags)
RunSpec         by `plan` alone, never by hand         Submission  by `submit`, one line an attempt
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from hpcpar.units import parse_duration, parse_memory

SCHEMA = 1
AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
"""The axes of the mesh, outer to inner; `ep` is carved out of the data axes and multiplies nothing."""

Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
"""A name that becomes a folder or a part of a job name."""


class Mesh(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of the named axes; their product is the number of ranks."""

    pp: Positive = 1
    dp_replicate: Positive = 1
    dp_shard: Positive = 1
    cp: Positive = 1
    tp: Positive = 1
    ep: Positive = 1

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return math.prod(getattr(self, axis) for axis in AXES)

    @property
    def data_ranks(self) -> int:
        """Ranks that see different samples."""
        return self.dp_replicate * self.dp_shard

    def coordinates(self, rank: int) -> dict[str, int]:
        """Return the place of `rank` on every axis; pp is the outermost axis, tp the innermost."""
        place = {}
        for axis in reversed(AXES):
            rank, place[axis] = divmod(rank, getattr(self, axis))
        return {axis: place[axis] for axis in AXES}

    def label(self) -> str:
        """Print the axes that are larger than one, e.g. "pp=2 dp_replicate=4"; "1" for one rank."""
        sizes = [f"{axis}={getattr(self, axis)}" for axis in (*AXES, "ep") if getattr(self, axis) > 1]
        return " ".join(sizes) or "1"


def parse_mesh(text: str, world_size: int) -> Mesh:
    """Parse "pp=2,dp=-1" for a world of `world_size` ranks; -1 fills, `dp` means dp_replicate.

    Raises:
        ValueError: unknown or repeated axis, not a size, two -1, or a product that is not the world size.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        axis, equals, number = (piece.strip() for piece in part.partition("="))
        axis = "dp_replicate" if axis == "dp" else axis
        if axis not in (*AXES, "ep"):
            raise ValueError(f"mesh '{text}': unknown axis '{axis}': one of dp, {', '.join(AXES)}, ep")
        if axis in sizes:
            raise ValueError(f"mesh '{text}': axis '{axis}' is given twice")
        if not equals or not re.fullmatch(r"-1|[1-9][0-9]{0,6}", number):
            raise ValueError(f"mesh '{text}': '{part}' must be AXIS=SIZE with a size of 1 or more, or -1 to fill")
        sizes[axis] = int(number)
    return _fill(text, sizes, world_size)


def _fill(text: str, sizes: dict[str, int], world_size: int) -> Mesh:
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1 or sizes.get("ep") == -1:
        raise ValueError(f"mesh '{text}': only one axis may be -1, and it may not be ep")
    fixed = math.prod(size for axis, size in sizes.items() if size != -1 and axis != "ep")
    if open_axes:
        if world_size % fixed:
            raise ValueError(f"mesh '{text}' does not divide {world_size} ranks: {fixed} is fixed by the other axes")
        sizes[open_axes[0]] = world_size // fixed
    elif fixed != world_size:
        raise ValueError(f"mesh '{text}' has {fixed} ranks, the run has {world_size}: use -1 for the axis that fills")
    return Mesh(**sizes)


# ---------------------------------------------------------------- the site's words


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where values of a profile come from. `keys` are dotted keys; a trailing `*` covers what is below."""

    keys: tuple[str, ...]
    url: str
    checked: str
    """The date on which somebody looked, YYYY-MM-DD."""
    confirmed: bool = True
    """False: seen, but not confirmed; treat with care."""
    note: str = ""


class TimeLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The longest wall time for jobs of up to `max_nodes` nodes (limits that depend on size are a list of these)."""

    max_time: str
    max_nodes: Positive | None = None

    def __post_init__(self) -> None:
        parse_duration(self.max_time)


class Qos(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A quality of service, or a partition: what it costs and what it allows."""

    charge_factor: Annotated[float, Meta(ge=0)] | None = None
    limits: tuple[TimeLimit, ...] = ()
    max_queued: Positive | None = None
    min_nodes: Positive = 1

    def __post_init__(self) -> None:
        sizes = [limit.max_nodes or math.inf for limit in self.limits]
        if sizes != sorted(set(sizes)):
            raise ValueError("limits must go from small jobs to large ones, the one without max_nodes last")

    def max_time_s(self, nodes: int) -> float | None:
        """Return the wall-time limit in seconds for a job of `nodes` nodes, or None where none is known."""
        for limit in self.limits:
            if limit.max_nodes is None or nodes <= limit.max_nodes:
                return parse_duration(limit.max_time)
        return None

    def max_nodes(self) -> int | None:
        """Return the largest job in nodes, or None where none is known."""
        sizes = [limit.max_nodes for limit in self.limits]
        return None if not sizes or None in sizes else max(size for size in sizes if size is not None)


class NodeType(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of node of a cluster and how ranks are laid on it."""

    description: str = ""
    num_nodes: Positive | None = None
    usable_cpus: Positive | None = None
    """Hardware threads that jobs may use; less than the machine has where the system keeps cores for itself."""
    threads_per_core: Positive = 1
    ranks_per_node: Positive = 1
    cpus_per_rank: Positive = 1
    memory: str = ""
    """Memory of a node, e.g. "256GiB"; information for the plan."""
    request_memory: Literal["never", "if-asked", "whole-node"] = "if-asked"
    """"never": the site forbids --mem. "whole-node": always --mem=0."""
    gpus_per_node: Annotated[int, Meta(ge=0)] = 0
    """Devices as the scheduler counts them (a GCD of an MI250X counts as one)."""
    devices_per_card: Positive = 1
    gpu_request: Literal["none", "gpus-per-node", "gres", "gpus-per-task", "constraint-only"] = "none"
    """Exactly one way of asking for GPUs; sites refuse or misread mixtures."""
    gpu_bind: str = ""
    device_order: tuple[int, ...] = ()
    """Device of each local rank, where the numbering of the devices is not the one next to the cores."""
    accelerator: str = ""
    accelerator_memory: str = ""
    partition: str = ""
    constraint: str = ""
    qos: str = ""
    """Sent with every job: where a site's default is a short debug queue, silence would be a mistake."""
    account_suffix: str = ""
    whole_nodes: bool = True
    charge_rate: Annotated[float, Meta(ge=0)] | None = None
    """Units of the site (`charge_unit`) for one node and hour, before factors of QOS and partition; None: unknown."""

    def __post_init__(self) -> None:
        for text in (self.memory, self.accelerator_memory):
            if text:
                parse_memory(text)
        if (self.gpus_per_node > 0) != (self.gpu_request != "none"):
            raise ValueError("gpus_per_node and gpu_request belong together: give both or neither")


class Srun(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands on the srun line besides what the plan owns."""

    args: tuple[str, ...] = ()
    cpu_bind: str = ""
    network: str = ""


class Environment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a job needs before Python starts. Anything beyond modules, an activation script and variables
    belongs into a template of your own (blocks `modules` and `environment`)."""

    modules: tuple[str, ...] = ()
    activate: str = ""
    """A script to source, e.g. a virtual environment's bin/activate."""
    set: dict[str, str] = field(default_factory=dict)
    multi_node: dict[str, str] = field(default_factory=dict)
    """Set only when a job has more than one node (network plug-ins)."""


class ClusterProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one machine is. Changes when the site changes."""

    schema: Literal[1]
    name: Name
    description: str
    scheduler: Literal["slurm", "local", "pbs"]
    node_types: dict[str, NodeType]
    default_node_type: str
    template: str = "sbatch.sh.j2"
    account_required: bool = False
    account: str = ""
    charge_unit: str = "node-hours"
    default_time: str = "10m"
    qos: dict[str, Qos] = field(default_factory=dict)
    partitions: dict[str, Qos] = field(default_factory=dict)
    """Where the site's limits and prices hang on partitions."""
    max_array_size: Positive = 1001
    """Slurm's MaxArraySize: the largest index is one less. 1001 is Slurm's own default."""
    max_queued: Positive | None = None
    requeue: bool = False
    """Sent as --requeue or --no-requeue, never left to the site's default."""
    kill_on_bad_exit: bool = True
    directives: tuple[str, ...] = ()
    """Further options of sbatch, e.g. "--network=disable_rdzv_get"."""
    srun: Srun = Srun()
    environment: Environment = Environment()
    host_suffix: str = ""
    """Appended to a node's name to get the name on the fast network (JUWELS: "i")."""
    socket_interface: str = ""
    """Network interface of the rendezvous and of gloo; "" lets them find it by the node's name."""
    python: str = ""
    """The interpreter on the nodes; "" is the one that runs `hpcpar submit`."""
    runs_root: str = ""
    node_local: str = ""
    offline_nodes: bool = False
    two_factor_login: bool = False
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        if self.default_node_type not in self.node_types:
            raise ValueError(f"default_node_type '{self.default_node_type}' is not one of {sorted(self.node_types)}")
        parse_duration(self.default_time)
        for kind, node_type in self.node_types.items():
            if self.qos and node_type.qos and node_type.qos not in self.qos:
                raise ValueError(f"node_types.{kind}.qos '{node_type.qos}' is not one of {sorted(self.qos)}")
            if self.partitions and node_type.partition and node_type.partition not in self.partitions:
                known = sorted(self.partitions)
                raise ValueError(f"node_types.{kind}.partition '{node_type.partition}' is not one of {known}")
        taken = [d for d in self.directives if d.split("=")[0].split(" ")[0] in MANAGED_DIRECTIVES]
        if taken:
            raise ValueError(f"directives {taken} are set by hpcpar itself")


_MANAGED = """
-J --job-name --comment -N --nodes -n --ntasks --ntasks-per-node -c --cpus-per-task -t --time -a --array -A --account
-q --qos -p --partition -C --constraint -o --output -e --error --open-mode --requeue --no-requeue --mem --export
--gpus-per-node --gres --gpus-per-task
"""
MANAGED_DIRECTIVES = frozenset(_MANAGED.split())
"""Options of sbatch that the plan owns; a profile says them with keys of its own."""


# ---------------------------------------------------------------- the scientist's words


class StrategyChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A strategy of a study with its options."""

    name: str
    mesh: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[Positive, ...] = ()
    """Node counts of this strategy alone, where it cannot do all of the study's (`single`)."""


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
    warmup_steps: Annotated[int, Meta(ge=0)] = 10
    """Steps that the collector leaves out; they are recorded all the same, so the cut can be changed later."""
    repeats: Annotated[int, Meta(ge=1, le=1000)] = 1
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    time: str = ""
    memory: str = ""
    account: str = ""
    qos: str = ""
    partition: str = ""
    constraint: str = ""
    python: str = ""

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
    gpus_per_node: int = 0
    device_order: tuple[int, ...] = ()
    host_suffix: str = ""
    socket_interface: str = ""
    sample_unit: str = "samples"
    tokens_per_sample: int | None = None
    uses_cpu: bool = True
    """False: the workload only sleeps, so that sharing a host's CPUs does not spoil its timing."""
    time_s: float
    code: str = ""
    """Version of hpcpar that planned the run."""
    order: int = 0
    """Place in the study's order of execution."""
    pair: str = ""
    """Reserved: runs that share an allocation for comparison carry the same word."""
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


class Submission(Struct, frozen=True, kw_only=True):
    """What the control wing knows of a run's way through the scheduler; a line of submission.jsonl.

    kind "submitted": the scheduler took it. kind "ended": the scheduler says how it ended (kept, because it forgets).
    """

    schema: int = SCHEMA
    kind: Literal["submitted", "ended"] = "submitted"
    time: float
    """Seconds since the epoch."""
    batch: str
    scheduler: str
    job_id: str
    """Slurm: JOBID or JOBID_TASK. Local: a word of our own."""
    script_sha256: str = ""
    state: str = ""
    reason: str = ""
    exit_code: str = ""
