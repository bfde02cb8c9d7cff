"""How much communication is hidden behind computation: a few steps under torch's profiler, off the timed window.

Exposed is the time in which a rank communicates and computes nothing. On a GPU these are its kernels, NCCL's and all
others; on a CPU the collectives of Gloo, which has threads of its own, and torch's operators. A collective lasts from
its begin on this rank to its end: waiting for other ranks is in it, and under a pipeline its bubble. The definition is
that of HTA (github.com/facebookresearch/HolisticTraceAnalysis, docs: communication-computation overlap).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from msgspec import Struct

MOST_STEPS = 5
"""What the profiler notes of a step is kept in memory: thousands of operators."""


class Traced(Struct, frozen=True, kw_only=True):
    """What a rank did in the steps that were profiled, in seconds."""

    steps: int
    wall_s: float
    communication_s: float
    exposed_s: float
    compute_s: float


class Spans(NamedTuple):
    """Begin and end of what was seen, in microseconds, in any order."""

    communication: list[tuple[float, float]]
    compute: list[tuple[float, float]]


def trace(trainer: Any, steps: range, device: Any) -> Traced:
    """Do these steps under the profiler, on all ranks at once; return what this rank did."""
    from torch.profiler import ProfilerActivity, profile

    cuda = getattr(device, "type", "cpu") == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        begun = time.perf_counter()
        for step in steps:
            trainer.step(trainer.batch(step))
        if cuda:
            import torch

            torch.cuda.synchronize(device)
        wall_s = time.perf_counter() - begun
    return reduced(spans(profiler.events(), cuda=cuda), len(steps), wall_s)


def spans(events: Iterable[Any], *, cuda: bool) -> Spans:
    """Sort the profiler's events into communication and computation; what is neither is left out."""
    found = Spans([], [])
    for event in events:
        span = (float(event.time_range.start), float(event.time_range.end))
        if cuda:
            on_device = "CUDA" in str(event.device_type) and not getattr(event, "is_user_annotation", False)
            if on_device:
                (found.communication if "nccl" in event.name.lower() else found.compute).append(span)
        elif event.name.startswith("gloo:"):
            found.communication.append(span)
        elif event.name.startswith("aten::"):
            found.compute.append(span)
    return found


def reduced(seen: Spans, steps: int, wall_s: float) -> Traced:
    """Add up what was seen."""
    communication, compute = (_covered(one) for one in seen)
    either = _covered([*seen.communication, *seen.compute])
    return Traced(
        steps=steps,
        wall_s=wall_s,
        communication_s=communication / 1e6,
        exposed_s=min(either - compute, communication) / 1e6,  # of large numbers: rounding may make it more
        compute_s=compute / 1e6,
    )


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return how long at least one of the spans lasted."""
    edges = sorted([(begin, 1) for begin, end in spans if end > begin] + [(end, -1) for b, end in spans if end > b])
    covered, open_spans = 0.0, 0
    for (at, change), (after, _) in pairwise(edges):
        open_spans += change
        covered += (after - at) if open_spans else 0.0
    return covered
