"""clockwork: steps of a known time, slept and not computed, so that what `collect` finds can be held against the truth.

With n ranks and global batch B an update takes, times the noise of the run,

    T(n) = serial_s + sample_s B / n + talk_s (n - 1)

which at a fixed B is the universal scalability law exactly: with T1 = serial_s + sample_s B its contention is
serial_s / T1, its coherency talk_s / T1 and its throughput at one rank B / T1. Sleeping ranks use no CPU, so one
machine honestly plays many nodes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from hpcpar.errors import Problem
from hpcpar.registry import Declaration

Seconds = Annotated[float, Meta(ge=0, le=3600)]
Share = Annotated[float, Meta(ge=0, le=1)]


class ClockworkOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a step takes, and how much that scatters."""

    serial_s: Seconds = 0.004
    """Of an update, whatever the number of ranks."""
    sample_s: Seconds = 0.0005
    """Of a sample; the samples of an update are spread over the ranks."""
    talk_s: Seconds = 0.0002
    """For every rank beyond the first: communication that grows."""
    noise: Share = 0.02
    """Standard deviation of the logarithm of a run's times, from run to run."""
    jitter: Share = 0.0
    """The same from step to step."""


class Movement(NamedTuple):
    """What the strategy winds up: the times without noise, and their scatter."""

    options: ClockworkOptions

    def step_s(self, ranks: int, global_batch: int) -> float:
        """Return the time of an update without noise, in seconds."""
        own = self.options
        return own.serial_s + own.sample_s * global_batch / ranks + own.talk_s * (ranks - 1)


class Clockwork:
    """A workload that only waits."""

    name = "clockwork"
    summary = "steps of a known time, slept: a check of the tables, not of a machine"
    extras = ("torch",)
    Options = ClockworkOptions

    def declare(self, options: ClockworkOptions) -> Declaration:
        """Describe the work."""
        return Declaration(kind="clockwork", global_batch=64, steps=60, uses_cpu=False)

    def check(self, options: ClockworkOptions) -> list[Problem]:
        """Find steps that take no time at all."""
        if options.serial_s + options.sample_s > 0:
            return []
        what = "serial_s and sample_s are both 0: a step takes no time"
        return [Problem("workload clockwork", what, "choose one of them larger than 0")]

    def load(self, options: ClockworkOptions, seed: int) -> Movement:
        """Wind it up (job)."""
        return Movement(options)


def scatter(word: str, deviation: float) -> float:
    """Return exp(deviation z) with z standard normal, the same for the same word on every rank and machine."""
    one, two = struct.unpack("<QQ", hashlib.sha256(word.encode()).digest()[:16])
    uniform, angle = (one + 1) / 2**64, 2 * math.pi * two / 2**64
    return math.exp(deviation * math.sqrt(-2 * math.log(min(uniform, 1.0))) * math.cos(angle))  # Box and Muller 1958


WORKLOAD = Clockwork()
