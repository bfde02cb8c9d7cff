"""Gradients of small batches, and steps under the profiler. Called on all ranks at once."""

from __future__ import annotations

from typing import Any

import cases
import torch

from hpcpar.worker.measure.diagnosis import diagnose


def squares_between_steps(rank: int, *, steps: int, **arguments: Any) -> dict[str, Any]:
    """Compare gradients before every step; return what came of it and the losses of the training."""
    trainer = cases.build(rank, steps=steps, **arguments)
    squares, losses = [], []
    for step in range(1, steps + 1):
        batch = trainer.batch(step)
        squares.append(trainer.gradient_squares(batch))
        result = trainer.step(batch)
        losses.append((float(result.loss_sum), result.weight))
    return {"small_batch": trainer.small_batch, "squares": squares, "losses": losses}


def squares_by_hand(rank: int, *, sizes: tuple[int, ...], **arguments: Any) -> list[float]:
    """Return the mean squared length of the gradients of batches of these sizes, one process, sample by sample."""
    trainer = cases.build(0, world_size=1, strategy="single", strategy_options={}, grad_accum=1, **arguments)
    batch = trainer.batch(1)
    parameters = list(trainer.model.parameters())
    each = []
    for i in range(len(batch.inputs)):
        loss_sum, weight = trainer._loss(trainer.model(batch.inputs[i : i + 1]), batch.targets[i : i + 1])
        gradients = torch.autograd.grad(loss_sum / weight, parameters)
        each.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    together = torch.stack(each).double()
    return [float(together.unflatten(0, (-1, size)).mean(1).square().sum(1).mean()) for size in sizes]


def diagnosis(rank: int, **arguments: Any) -> Any:
    trainer = cases.build(rank, **arguments)
    trainer.step(trainer.batch(1))
    return diagnose(trainer, 1, 4, torch.device("cpu"))
