"""Exposed communication from spans of which the answer is drawn, and from events as the profiler gives them."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from hpcpar.worker.measure.overlap import Spans, reduced, spans


class Range(NamedTuple):
    start: float
    end: float


class Event(NamedTuple):
    """What of torch's FunctionEvent is looked at."""

    name: str
    time_range: Range
    device_type: str = "DeviceType.CPU"
    is_user_annotation: bool = False


@pytest.mark.parametrize(
    ("communication", "compute", "expected"),
    [
        ([(0, 10)], [], (10, 10, 0)),
        ([(0, 10)], [(0, 10)], (10, 0, 10)),
        ([(0, 10)], [(5, 20)], (10, 5, 15)),
        ([(0, 10), (5, 15)], [(2, 4), (3, 6)], (15, 11, 4)),
        ([(0, 4), (4, 8)], [(2, 6)], (8, 4, 4)),
        ([(8, 9), (0, 1)], [(1, 8)], (2, 2, 7)),
        ([(5, 5)], [(0, 1)], (0, 0, 1)),
        ([], [], (0, 0, 0)),
    ],
)
def test_what_is_covered_counts_once(communication: Any, compute: Any, expected: tuple[float, ...]) -> None:
    found = reduced(Spans(communication, compute), 1, 1.0)
    got = (found.communication_s, found.exposed_s, found.compute_s)
    assert got == pytest.approx(tuple(number / 1e6 for number in expected), abs=1e-12)


def test_on_a_cpu_gloo_communicates_and_operators_compute() -> None:
    events = [
        Event("gloo:all_reduce", Range(0, 10)),
        Event("c10d::allreduce_", Range(0, 1)),
        Event("aten::mm", Range(2, 6)),
        Event("autograd::engine::evaluate_function", Range(0, 50)),
    ]
    assert spans(events, cuda=False) == Spans([(0, 10)], [(2, 6)])


def test_on_a_gpu_kernels_count_and_what_the_host_does_not() -> None:
    """Names as Kineto gives them; written down, not recorded."""
    gpu = "DeviceType.CUDA"
    events = [
        Event("ncclDevKernel_AllReduce_Sum_f32_RING_LL", Range(0, 10), gpu),
        Event("nccl:all_reduce", Range(0, 11), gpu, True),
        Event("ampere_sgemm_128x64_nn", Range(2, 6), gpu),
        Event("Memcpy HtoD (Pageable -> Device)", Range(20, 21), gpu),
        Event("ProfilerStep*", Range(0, 99), gpu, True),
        Event("aten::mm", Range(0, 99)),
    ]
    assert spans(events, cuda=True) == Spans([(0, 10)], [(2, 6), (20, 21)])
