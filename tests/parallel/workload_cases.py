"""What the ranks of the pool do for the tests of workloads: train a little, then evaluate."""

from __future__ import annotations

from typing import Any, NamedTuple

import cases
import msgspec
import torch

from hpcpar import registry


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


def has_evaluation(rank: int, *, workload: str) -> bool:
    work = registry.get_workload(workload)
    if rank or work.name == "script":
        return False
    return getattr(work.load(work.Options(), 0), "evaluation", None) is not None


class Learned(NamedTuple):
    """What the evaluation says of a model."""

    metric: str
    value: float
    before: float
    """The same before the training."""
    loss: float


def learn(rank: int, *, workload: str, workload_options: dict[str, Any], steps: int) -> Learned:
    """Train with the declared batch on one process, and evaluate before and after."""
    work = registry.get_workload(workload)
    if rank:
        return Learned("", 0.0, 0.0, 0.0)
    declared = work.declare(msgspec.convert(workload_options, work.Options))
    trainer = cases.build(
        0,
        world_size=1,
        strategy="single",
        strategy_options={},
        workload=workload,
        workload_options=workload_options,
        global_batch=declared.global_batch,
        grad_accum=1,
        steps=steps,
    )
    before = trainer.evaluate()
    for step in range(1, steps + 1):
        trainer.step(trainer.batch(step))
    after = trainer.evaluate()
    metric = trainer._workload.evaluation.metric
    values = (scores.score_sum / scores.score_weight for scores in (after, before))
    return Learned(metric, *values, after.loss_sum / after.weight)


def run_a_little(rank: int, *, steps: int, **arguments: Any) -> int:
    """Return how many steps were done and had a finite loss on some rank."""
    if rank >= arguments["world_size"]:
        return 0
    trainer = cases.build(rank, steps=steps, **arguments)
    results = [trainer.step(trainer.batch(step)) for step in range(1, steps + 1)]
    if trainer._workload.evaluation is not None:
        trainer.evaluate()
    trainer.close()
    return sum(r.loss_sum is not None and bool(torch.isfinite(torch.as_tensor(r.loss_sum))) for r in results)
