"""Two clocks for the same loop: the CPU's, and a CUDA device's that nobody waits for until a window ends."""

from __future__ import annotations

import time
from typing import Any, Protocol


class Clock(Protocol):
    """Times steps; the times are ready when the window ends."""

    def begin(self) -> None:
        """Mark the begin of a step."""

    def end(self) -> None:
        """Mark its end."""

    def read(self) -> list[float]:
        """Wait for the device, return the seconds of the steps since the last call, and forget them."""


class CpuClock:
    """time.perf_counter around the step: on a CPU a step is over when it returns."""

    def __init__(self) -> None:
        self._times_s: list[float] = []
        self._begun = 0.0

    def begin(self) -> None:
        """Mark the begin of a step."""
        self._begun = time.perf_counter()

    def end(self) -> None:
        """Mark its end."""
        self._times_s.append(time.perf_counter() - self._begun)

    def read(self) -> list[float]:
        """Return the seconds of the steps since the last call."""
        times_s, self._times_s = self._times_s, []
        return times_s


class CudaClock:
    """CUDA events on the current stream: recording one costs microseconds and waits for nothing."""

    def __init__(self) -> None:
        self._events: list[Any] = []

    def _mark(self) -> None:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def begin(self) -> None:
        """Mark the begin of a step."""
        self._mark()

    def end(self) -> None:
        """Mark its end."""
        self._mark()

    def read(self) -> list[float]:
        """Wait for the last event, return the seconds of the steps since the last call."""
        events, self._events = self._events, []
        if not events:
            return []
        events[-1].synchronize()
        pairs = zip(events[::2], events[1::2], strict=True)
        return [begin.elapsed_time(end) / 1000 for begin, end in pairs]  # elapsed_time is in milliseconds
