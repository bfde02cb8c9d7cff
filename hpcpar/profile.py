"""What a site says of its cluster: clusters/NAME.toml, decoded."""

from __future__ import annotations

import datetime
import math
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from hpcpar.mesh import Positive
from hpcpar.units import parse_duration, parse_memory

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
"""A name that becomes a folder or a part of a job name."""


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
    peak_tflops: dict[Literal["fp32", "bf16"], Annotated[float, Meta(gt=0)]] = field(default_factory=dict)
    """Dense peak of one device, where it is not the one that hpcpar knows of this accelerator (hpcpar/devices.py)."""
    link_gb_per_s: Annotated[float, Meta(gt=0)] | None = None
    """Peak, in 1e9 bytes a second and one direction, of all links from a rank's device to the others of its node."""
    network_gb_per_s: Annotated[float, Meta(gt=0)] | None = None
    """The same of a rank's share of its node's network."""
    partition: str = ""
    constraint: str = ""
    qos: str = ""
    """Sent with every job: where a site's default is a short debug queue, silence would be a mistake."""
    account_suffix: str = ""
    whole_nodes: bool = True
    charge_rate: Annotated[float, Meta(ge=0)] | None = None
    """Units of the site (`charge_unit`) for one node and hour, before factors of QOS and partition; None: unknown."""

    @property
    def links(self) -> tuple[float | None, float | None]:
        """Peak bytes a second of a rank inside its node, and between nodes; None where nobody says."""
        inside, between = self.link_gb_per_s, self.network_gb_per_s
        return (None if inside is None else inside * 1e9), (None if between is None else between * 1e9)

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


class Container(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The container in which every rank runs."""

    runtime: Literal["none", "apptainer", "singularity", "pyxis", "shifter"] = "none"
    image: str = ""
    """As the runtime takes it: a file, or a name in a registry."""
    binds: tuple[str, ...] = ()
    """Folders that the ranks see besides the study's, SOURCE or SOURCE:TARGET."""
    args: tuple[str, ...] = ()
    """Further options of the runtime (of srun with Pyxis), one a string."""

    def __post_init__(self) -> None:
        if (self.runtime != "none") != bool(self.image):
            raise ValueError("container: runtime and image belong together: give both or neither")


class Environment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a job needs before Python starts. Anything beyond modules, an environment, a container and variables
    belongs into a template of your own (blocks `modules` and `environment`)."""

    modules: tuple[str, ...] = ()
    activate: str = ""
    """A script to source, e.g. a virtual environment's bin/activate."""
    conda: str = ""
    """A conda environment to activate: a name or a path. `conda` must be on PATH once modules are loaded."""
    archive: str = ""
    """A tar archive of a Python environment with bin/python: brought to `node_local` of every node, and used there."""
    container: Container = Container()
    set: dict[str, str] = field(default_factory=dict)
    multi_node: dict[str, str] = field(default_factory=dict)
    """Set only when a job has more than one node (network plug-ins)."""


class Allocation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of the machine is the user's own: for a profile in one's own folder."""

    ends: str = ""
    """The last day, YYYY-MM-DD."""
    balance: tuple[str, ...] = ()
    """A command that prints what is left, one word a string; run only where the user says --balance."""
    ask_above: Annotated[float, Meta(ge=0)] | None = None
    """Submit asks before it sends what may cost more, in the site's unit."""

    def __post_init__(self) -> None:
        if self.ends:
            datetime.date.fromisoformat(self.ends)


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
    allocation: Allocation = Allocation()
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
    closed_rendezvous: bool = False
    """Only the job's nodes may reach rank 0's port. Their names must lead to the addresses from which they speak."""
    python: str = ""
    """The interpreter on the nodes; "" is the one that runs `hpcpar submit`."""
    runs_root: str = ""
    node_local: str = ""
    """A folder on the nodes' own disks."""
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
        if self.environment.archive:
            self._check_archive()
        taken = [d for d in self.directives if d.split("=")[0].split(" ")[0] in MANAGED_DIRECTIVES]
        if taken:
            raise ValueError(f"directives {taken} are set by hpcpar itself")

    def _check_archive(self) -> None:
        if self.scheduler != "slurm":
            raise ValueError("environment.archive is brought to the nodes by Slurm's sbcast: there is none here")
        if not self.node_local.startswith("/"):
            raise ValueError("environment.archive needs node_local, the path of a folder on the nodes' own disks")
        if not self.environment.archive.startswith("/"):
            raise ValueError(f"environment.archive '{self.environment.archive}' is no path from the root on")
        if self.environment.container.image:
            raise ValueError("environment.archive and environment.container exclude each other: an image is one file")


_MANAGED = """
-J --job-name --comment -N --nodes -n --ntasks --ntasks-per-node -c --cpus-per-task -t --time -a --array -A --account
-q --qos -p --partition -C --constraint -o --output -e --error --open-mode --requeue --no-requeue --mem --export
--gpus-per-node --gres --gpus-per-task --signal
"""
MANAGED_DIRECTIVES = frozenset(_MANAGED.split())
"""Options of sbatch that the plan owns; a profile says them with keys of its own."""
