"""How far a training is, for people: a bar on a terminal, a line now and then in a log. Rank 0 only."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TextIO

from hpcpar.records import Step
from hpcpar.units import human_duration

EVERY_S = 30.0
"""Lines in a log are at least so far apart, but for the first and the last."""
_BAR = 24


class Progress:
    """Prints what a window of steps says; what it prints to may be gone, which is nobody's concern."""

    def __init__(self, out: TextIO, steps: int, unit: str, batch: int) -> None:
        """Remember what to print.

        Args:
            out: usually stdout; a terminal gets a bar.
            steps: updates of the run.
            unit: what a sample is called.
            batch: samples an update.
        """
        self._out, self._steps, self._unit, self._batch = out, steps, unit, batch
        self._bar = out.isatty()
        self._said_s = -math.inf

    def __call__(self, records: Sequence[Step]) -> None:
        """Print where the training is after these steps."""
        last, now = records[-1], time.monotonic()
        at_end = last.step >= self._steps
        if not (self._bar or at_end or now - self._said_s >= EVERY_S):
            return
        self._said_s = now
        words = self.words(records)
        if self._bar:
            filled = _BAR * last.step // self._steps
            text = f"\r\x1b[K[{'#' * filled}{'.' * (_BAR - filled)}] {words}{chr(10) if at_end else ''}"
        else:
            text = f"{words}\n"
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):
            self._bar, self._said_s = False, math.inf  # closed, or the disk is full: the records say the same

    def words(self, records: Sequence[Step]) -> str:
        """Return the step, the loss, the rate over these steps, and the time left at that rate."""
        last = records[-1]
        mean_s = math.fsum(step.time_s + step.data_s for step in records) / len(records)
        loss = "not finite" if last.loss is None else f"{last.loss:.4g}"
        left = human_duration((self._steps - last.step) * mean_s) if last.step < self._steps else "0s"
        rate = f"{self._batch / mean_s:.4g} {self._unit}/s" if mean_s > 0 else "-"
        return f"step {last.step}/{self._steps}, loss {loss}, {rate}, {left} left"
