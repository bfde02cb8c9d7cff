"""Two clocks for the same loop: the CPU's, and a CUDA device's that nobody waits for until a window ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Clock(Protocol):
    """Marks the begin and the end of steps; how long they were is asked when the window ends."""

    @property
    def mark(self) -> Callable[[], Any]:
        """Called at the begin and at the end of a step, it returns a mark."""

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """Wait for the device, return the seconds between each begin and its end."""


class CpuClock:
    """time.perf_counter around the step: on a CPU a step is over when it returns."""

    def __init__(self) -> None:
        self.mark = time.perf_counter
        """The function itself: between two steps a call more would be seen."""

    def seconds(self, marks: Sequence[float]) -> list[float]:
        """Return the seconds between each begin and its end."""
        return [end - begin for begin, end in zip(marks[::2], marks[1::2], strict=True)]


class CudaClock:
    """CUDA events on the current stream: recording one costs microseconds and waits for nothing."""

    def mark(self) -> Any:
        """Record an event."""
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """Wait for the last event, return the seconds between each begin and its end."""
        if marks:
            marks[-1].synchronize()
        pairs = zip(marks[::2], marks[1::2], strict=True)
        return [begin.elapsed_time(end) / 1000 for begin, end in pairs]  # elapsed_time is in milliseconds
