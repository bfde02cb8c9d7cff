"""What all cells of a forecast have in common: the study, the nodes, what past runs say; and what follows from it."""

from __future__ import annotations

import math

import msgspec
from msgspec import Struct

from hpcpar.control.forecast.clock import USUAL, Clock, cpu_rates, first_clock, gpu_rates
from hpcpar.control.forecast.layout import Layout, pace
from hpcpar.control.forecast.memory import Need, fits_for_certain
from hpcpar.control.forecast.past import Past
from hpcpar.control.plan import PlannedRun
from hpcpar.devices import find_device
from hpcpar.profile import ClusterProfile, NodeType
from hpcpar.spec import Identity, Resources, Study
from hpcpar.units import parse_memory, slurm_memory

GIVE = 0.9
"""A GPU's memory that tensors can have: what its maker calls 40 GB is a little less (assumed, none was at hand)."""


class Job(Struct, frozen=True, kw_only=True):
    """What all cells have in common."""

    study: Study
    profile: ClusterProfile
    node_type: NodeType
    past: Past
    trace: bool
    left_s: float | None = None
    clocks: dict[str, Clock | None] = msgspec.field(default_factory=dict)
    """By the pace of a rank (layout.py)."""


def capacity_of(job: Job, resources: Resources) -> float | None:
    """Return the memory that a rank can have, in bytes; None where nobody says.

    On CPUs that is its part of what the node has, or of what the job asks of it where that is less.
    """
    kind = job.node_type
    if kind.gpus_per_node:
        return parse_memory(kind.accelerator_memory) * GIVE if kind.accelerator_memory else None
    asked = "" if job.profile.scheduler == "local" else resources.memory  # the local queue holds nobody to it
    sizes = [parse_memory(size) for size in (kind.memory, asked) if size not in {"", "0"}]
    return min(sizes) / resources.ranks_per_node if sizes else None


def clock_of(job: Job, layout: Layout, identity: Identity) -> Clock | None:
    """Return the clock for this precision (and so many CPUs), calibrated where there are finished runs."""
    precision, kind = layout.case.precision, pace(layout, identity)
    if kind not in job.clocks:
        known: dict[str, float] = {}
        if layout.gpu:
            device = find_device(job.node_type.accelerator)
            peaks = {str(name): tera * 1e12 for name, tera in job.node_type.peak_tflops.items()}
            source = "the profile" if peaks else (device.source if device else "")
            known = {**(device.peak_flops if device and not peaks else {}), **peaks}
            rates = gpu_rates(known, precision, source, job.node_type.links)
        else:
            rates = cpu_rates(identity.cpus_per_rank, job.node_type.links)
        naive = 1 / (known[precision] * USUAL[precision]) if layout.gpu and rates else None
        job.clocks[kind] = job.past.calibrate(first_clock(rates, naive), kind) if rates else None
    return job.clocks[kind]


def memory_request(run: PlannedRun, needed: Need, job: Job) -> str:
    """Return the memory a node to ask for where nobody said, for CPUs: what fits for certain, or all there is.

    On GPUs the tensors are not in the node's memory, and nothing is asked.
    """
    kind = job.node_type
    if job.study.memory or kind.request_memory != "if-asked" or kind.gpus_per_node or job.profile.scheduler == "local":
        return ""
    enough = run.resources.ranks_per_node * fits_for_certain(needed, gpu=False)
    there = parse_memory(kind.memory) if kind.memory else math.inf
    return slurm_memory(math.ceil(min(enough, there)))


def limit_of(study: Study, run: PlannedRun, profile: ClusterProfile, run_high_s: float | None) -> float:
    """Return the time limit of a run, in seconds: the user's, else what the upper end of the band needs.

    In whole minutes, not less than the profile's default, and not more than the queue allows.
    """
    resources = run.resources
    if study.time or run_high_s is None:
        return resources.time_s
    limit = max(resources.time_s, math.ceil(run_high_s / 60) * 60.0)
    queues = (profile.qos.get(resources.qos), profile.partitions.get(resources.partition))
    most = [queue.max_time_s(resources.nodes) for queue in queues if queue is not None]
    return min([limit, *(one for one in most if one is not None)])
