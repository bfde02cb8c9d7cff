"""Steps after the training, off the timed window: how much communication is exposed, and how noisy gradients are.

They train on, so that they are like the steps that were timed; what the run reports of the training is from before.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from hpcpar.records import Diagnosis
from hpcpar.worker.measure.overlap import MOST_STEPS, trace


def diagnose(trainer: Any, done: int, steps: int, device: Any) -> Diagnosis:
    """Return what this rank saw; all ranks call it at once.

    Args:
        trainer: of a point of the mesh.
        done: updates that it has done.
        steps: gradients that are compared; at most `MOST_STEPS` steps are profiled.
        device: torch.device of this rank.
    """
    profiled = min(steps, MOST_STEPS)
    seen = trace(trainer, range(done + 1, done + profiled + 1), device)
    small_batch = getattr(trainer, "small_batch", 0)
    squares = []
    for step in range(done + profiled + 1, done + profiled + steps + 1) if small_batch else ():
        batch = trainer.batch(step)
        squares.append(trainer.gradient_squares(batch))
        trainer.step(batch)
    return Diagnosis(
        after_step=done,
        profiled_steps=profiled,
        wall_s=seen.wall_s / profiled,
        communication_s=seen.communication_s / profiled,
        exposed_s=seen.exposed_s / profiled,
        compute_s=seen.compute_s / profiled,
        small_batch=small_batch,
        squares=squares,
    )


def merged(everybody: Sequence[Diagnosis]) -> Diagnosis:
    """Return the mean over ranks; all have the same squares."""
    names = ("wall_s", "communication_s", "exposed_s", "compute_s")
    means = {name: statistics.fmean(getattr(one, name) for one in everybody) for name in names}
    return msgspec.structs.replace(everybody[0], **means)
