"""What the ranks of the pool do for the tests of workloads: train a little, then evaluate."""

from __future__ import annotations

from typing import Any, NamedTuple

import cases


class Ended(NamedTuple):
    """What a rank knows at the end."""

    losses: list[tuple[float, float]]
    scores: tuple[float, float, float, float]
    samples: int


def train_and_evaluate(rank: int, *, steps: int, plant: bool = False, **arguments: Any) -> Ended | None:
    if rank >= arguments["world_size"]:
        return None
    trainer = cases.build(rank, steps=steps, **arguments)
    if plant and rank == arguments["world_size"] - 1:
        cases.plant_wrong_gradient(trainer._update.optimizer)
    results = [trainer.step(trainer.batch(step)) for step in range(1, steps + 1)]
    scores = trainer.evaluate()
    trainer.close()
    losses = [(0.0 if r.loss_sum is None else float(r.loss_sum), r.weight) for r in results]
    return Ended(losses, tuple(scores), len(trainer._workload.evaluation.samples))
