"""What a job writes about itself: events, steps and a result, as JSON Lines; and a reader that survives damage.

Records accept fields that they do not know (a newer version wrote them); configuration does not.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct, field

from hpcpar.spec import SCHEMA
from hpcpar.storage import append_line, open_file, read_file

R = TypeVar("R", bound=Struct)
_DAMAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


MAX_BYTES = 256 * 1024**2
"""What is read of a file of lines (a million steps are 150 MiB); what follows counts as one rejected line."""
MAX_BYTES_OF_ONE = 32 * 1024**2
"""The largest file that can be one record: 10,000 ranks have 3 MiB."""


LONGEST_S = 1e9
"""No step and no run lasts thirty years: such a time is a damaged number."""
_LATEST = 1e11
"""No record is of the year 5138."""


def span_s(started: float, ended: float) -> float | None:
    """Return the seconds from one moment to another; None where a clock was set in between, or a number is damaged."""
    possible = 0 <= started <= ended <= _LATEST and ended - started <= LONGEST_S
    return ended - started if possible else None


class Cause(enum.StrEnum):
    """Why a run ended; `ok` is the only good one."""

    OK = "ok"
    OOM_HOST = "oom_host"
    OOM_DEVICE = "oom_device"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    NODE_FAIL = "node_fail"
    NETWORK = "network"
    DATA = "data"
    DIVERGED = "diverged"
    """A loss or gradient was not finite, and the study asked to stop then."""
    PYTHON_ERROR = "python_error"
    KILLED = "killed"
    """A signal from outside ended a rank: kill -9, or the system's out-of-memory killer without a trace of it."""
    CANCELLED = "cancelled"
    HUNG = "hung"
    """A rank began no step for too long; the stacks of the ranks are in their events."""
    STORAGE = "storage"
    """The run folder could not be written: the disk or the quota is full, or the file system is read-only."""
    LAUNCH = "launch"
    """The job ended before any rank began."""
    VANISHED = "vanished"
    """It began, then nothing more was heard of it, neither from the run nor from the scheduler."""


class Event(Struct, kw_only=True, omit_defaults=True):
    """One line of events.ATTEMPT.jsonl.

    kind: start (the first rank is up), ready (all ranks have met), phase (data.name, data.seconds), heartbeat
    (data.step), checkpoint (data.step; data.outcome: written, failed or rejected, with data.reason), resume (data.step,
    data.lineage: what the attempt goes on from), warning (data.message: something beside the run failed), error
    (data.cause, data.message, data.traceback: of a rank that hangs the stacks of its threads; data.echo: it only
    noticed another rank's end, or waits for another rank), exit (data.cause; the worker's own last word), script_exit
    (data.code; the job script's last word, written even when every rank was killed).
    """

    schema: int = SCHEMA
    time: float
    """Seconds since the epoch."""
    kind: str
    rank: int = 0
    host: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Step(Struct, kw_only=True, omit_defaults=True, gc=False):
    """One line of steps.ATTEMPT.jsonl: one optimizer update, over all ranks. Times in seconds."""

    schema: int = SCHEMA
    step: int
    time_s: float
    """The slowest rank's time for this update."""
    time_min_s: float
    time_mean_s: float
    slowest: int
    """The rank that was slowest."""
    data_s: float = 0.0
    """The longest time that a rank waited for its samples before this step (not part of `time_s`)."""
    loss: float | None = None
    """Sum of the losses over the global batch divided by its weight; None where it was not finite."""
    weight: float = 0.0
    """What the loss was summed over: samples or tokens."""
    applied: bool = True
    """False: the update was skipped."""
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    """Of an asynchronous update: its gradients in the order of their arrival, each as (rank, staleness); the staleness
    counts the updates that the weights were behind when that gradient was computed."""
    expert_load: float | None = None
    """Of a mixture of experts: what the busiest expert got over the mean of all, averaged over its layers."""
    dropped: float = 0.0
    """Share of what was sent to experts that had no room for it."""


class StepTime(Struct, kw_only=True, gc=False):
    """What tables are made of in a Step: of millions of lines, the rest need not become objects."""

    step: int
    time_s: float
    time_mean_s: float
    slowest: int
    data_s: float = 0.0
    loss: float | None = None
    applied: bool = True


class RankFacts(Struct, kw_only=True):
    """What a rank found where it ran."""

    rank: int
    host: str
    boot_id: str
    """The same word for ranks on the same physical machine, whatever the host's name."""
    usable_cpus: int
    """CPUs that the rank may really use: its affinity mask and its cgroup."""
    cpus_asked: int
    threads: int
    device: str
    peak_memory_bytes: int = 0
    """The process's largest resident set."""
    peak_device_bytes: int = 0
    """The most that tensors held."""
    peak_reserved_bytes: int = 0
    """The most that torch's allocator took from the device."""
    held_bytes: dict[str, int] = field(default_factory=dict)
    """After the last step: parameters, gradients, optimizer, buffers; on a device also activations."""
    train_wall_s: float | None = None
    train_cpu_s: float | None = None
    """Processor time of the training, all threads of the rank's process."""
    device_energy_j: float | None = None
    """Of its device during the training; None where no counter can be read."""
    machine_energy_j: float | None = None
    """Of all processor packages of its machine during the training."""
    device_utilisation: float | None = None
    """Mean share of time in which any kernel ran on its device, as NVML tells; None where it does not."""
    clock_mhz: float | None = None
    """Right after the training: of the device, or of the machine's processors; None where nobody tells."""
    processor: str = ""
    """The machine's processor as it calls itself."""
    device_name: str = ""
    """The device as its driver calls it."""
    driver: str = ""
    """Version of the device's driver."""


class Evaluated(Struct, kw_only=True):
    """What the trained model made of the samples that training never saw."""

    num_samples: int
    loss: float | None
    """None where it was not finite."""
    metric: str
    """Name of the workload's metric; more is better."""
    value: float | None


class Fabric(Struct, frozen=True, kw_only=True):
    """What connects the ranks: a short all-reduce before the training (worker/measure/fabric.py)."""

    backend: str
    num_bytes: int
    time_s: float
    bus_bytes_per_s: float
    """num_bytes / time_s x 2 (n - 1) / n."""
    transports: list[str]
    """The interfaces that its bytes went over, by their counters; "memory" where none counted them."""


class Diagnosis(Struct, frozen=True, kw_only=True):
    """What steps after the training, off the timed window, told (worker/measure/diagnosis.py)."""

    after_step: int
    """Updates that were done before."""
    profiled_steps: int
    wall_s: float
    """Seconds a step under the profiler, mean over ranks; so are the next three."""
    communication_s: float
    exposed_s: float
    """Of these, the seconds in which the rank computed nothing."""
    compute_s: float
    small_batch: int = 0
    """Samples of the batches whose gradients were compared with the global batch's; 0: none were."""
    squares: list[tuple[float, float]] = field(default_factory=list)
    """Step by step: mean squared length of the gradients of small batches, and that of the global batch's."""


class Span(Struct, frozen=True, kw_only=True):
    """Updates of a run that one of its attempts did, and that its result is made of."""

    attempt: str
    first: int
    last: int


class RunRecord(Struct, kw_only=True):
    """record.json: the result of a run that reached its end."""

    schema: int = SCHEMA
    key: str
    study: str
    attempt: str
    job_id: str
    cause: Cause
    started: float
    ended: float
    steps: int
    phases: dict[str, float]
    """Seconds by phase: start, build, train, evaluate (where there is something to evaluate on), finish."""
    loss_first: float | None
    loss_last: float | None
    ranks: list[RankFacts]
    oversubscribed: bool
    """Ranks x threads exceeded the usable CPUs of a physical machine: times are no evidence of scaling."""
    data: dict[str, Any] = field(default_factory=dict)
    """What was trained on: name, number of samples, digest, synthetic or not."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What only the strategy knows of the result and of how it was computed: digests of trees, workers of a fit."""
    evaluation: Evaluated | None = None
    fabric: Fabric | None = None
    """None for one rank."""
    diagnosis: Diagnosis | None = None
    """None where nobody asked for it."""
    whole_program: bool = False
    """Its one step is a whole program that said nothing of its steps."""
    model_flops: dict[str, float] = field(default_factory=dict)
    """Floating-point operations that the model needs for a sample, forward and backward, by convention of counting."""
    versions: dict[str, str] = field(default_factory=dict)
    code_sha256: str = ""
    """Of the snapshot of the user's own code that ran, read again in the job; "" where there was none."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """What else the result depends on: the code's digest, its commit and changes, and the environment variables that
    libraries read. Never a secret (worker/provenance.py)."""
    notes: list[str] = field(default_factory=list)
    lineage: list[Span] = field(default_factory=list)
    """Which attempts did which updates, where the run went on from a checkpoint; empty: `attempt` did all."""

    @property
    def wall_s(self) -> float | None:
        """Seconds from the start of its first rank to its end; None where these times are impossible."""
        return span_s(self.started, self.ended)


class Head(Struct, kw_only=True):
    """What every version of record.json says."""

    schema: int = 0
    cause: str = ""


class Reading(NamedTuple):
    """What a reader got out of a file: good records, and how many lines were not."""

    records: list[Any]
    rejected: int


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Spare the search for garbage in cycles: of records nothing is, and of many it takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def append(path: Path | str, record: Struct, *, durable: bool = False) -> None:
    """Append one record as one line.

    Raises:
        StorageError: the file cannot be written.
    """
    append_line(path, msgspec.json.encode(record), durable=durable)


def read_lines(path: Path | str, kind: type[R]) -> Reading:
    """Read a JSON Lines file of one kind of record; a missing file is an empty one.

    Torn lines, NUL tails, stray text and records of the wrong shape are counted, never an exception.
    """
    try:
        content = read_file(path, MAX_BYTES + 1)
    except OSError:
        return Reading([], 0)
    if len(content) <= MAX_BYTES:
        return parse_lines(content, kind)
    records, rejected = parse_lines(content[: content.rfind(b"\n", 0, MAX_BYTES) + 1], kind)
    return Reading(records, rejected + 1)


def read_undamaged(path: Path | str, kind: type[R]) -> list[R] | None:
    """Read a JSON Lines file; None where it is missing, far too large, or any line of it is not of this kind."""
    try:
        content = read_file(path, MAX_BYTES + 1)
        return None if len(content) > MAX_BYTES else _decoder(kind).decode_lines(content)
    except (OSError, *_DAMAGE):
        return None


@functools.cache
def _decoder(kind: type[R]) -> msgspec.json.Decoder[R]:
    return msgspec.json.Decoder(kind)


def parse_lines(content: bytes, kind: type[R]) -> Reading:
    """Parse the bytes of a JSON Lines file; see `read_lines`."""
    decoder = _decoder(kind)
    try:  # undamaged, which is what nearly every file is: several times faster than line by line
        return Reading(decoder.decode_lines(content), 0)
    except _DAMAGE:
        return _line_by_line(content, decoder)


def _line_by_line(content: bytes, decoder: msgspec.json.Decoder[R]) -> Reading:
    records: list[Any] = []
    rejected = 0
    for raw in content.split(b"\n"):
        line = raw.strip(b"\0\r\t ")
        if not line:
            continue
        try:
            records += decoder.decode_lines(line)  # two records are in one line where a line's end was lost
        except _DAMAGE:
            rejected += 1
    return Reading(records, rejected)


def read_one(path: Path | str, kind: type[R]) -> R | None:
    """Read a file that holds one record; None where it is missing, damaged, or far too large to be one."""
    try:
        content = read_file(path, MAX_BYTES_OF_ONE + 1)
        found: R = _decoder(kind).decode(content)
    except (OSError, *_DAMAGE):
        return None
    return found if len(content) <= MAX_BYTES_OF_ONE else None


def tail_lines(path: Path | str, kind: type[R], num_bytes: int = 8192) -> list[Any]:
    """Read the records in the last bytes of a file: enough for a look at its end, whatever its size."""
    try:
        with open_file(path) as file:
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - num_bytes))
            content = file.read(num_bytes)
    except OSError:
        return []
    if size > num_bytes:  # the first line is cut
        content = content.partition(b"\n")[2]
    return parse_lines(content, kind).records
