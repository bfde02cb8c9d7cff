"""Local updates, then a meeting of the replicas: local SGD, post-local SGD, DiLoCo. Imports torch.

With r replicas, inner optimizer U (the workload's), period H, and a_i the weight of what replica i saw since the last
meeting (its samples or tokens):

    every step          x_i <- U(x_i, gradient of replica i's own mean loss, clipped by its own norm)
    every H steps       m = sum_i a_i x_i / sum_i a_i
      plain averaging   x_i <- m, and the same mean of the optimizer's moments where they are averaged
      DiLoCo            d = z - m;  b <- mu b + d;  z <- z - eta (d + mu b);  x_i <- z

z is what the replicas had in common at the last meeting. Sources: local SGD, Stich 2019 (arXiv:1805.09767); averaged
momentum, Yu, Jin, Yang 2019 (arXiv:1905.03817); post-local SGD, Lin et al. 2020 (arXiv:1808.07217); DiLoCo, Douillard
et al. 2023 (arXiv:2311.08105), algorithm 1. The weights a_i are equal where all samples weigh the same; they are there
so that a meeting after every step does what ddp does with uneven batches too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from msgspec import Struct
from torch import nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Scores, StepResult, Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.delayed.average import weighted_mean
from hpcpar.worker.delayed.share import Numbered, backward
from hpcpar.worker.mesh_engine import weights
from hpcpar.worker.mesh_engine.evaluate import evaluate
from hpcpar.worker.mesh_engine.feed import Batch, Feed
from hpcpar.worker.neural import NeuralWorkload


class Rhythm(Struct, frozen=True, kw_only=True):
    """When replicas meet, and what they do then."""

    period: int
    warmup: int
    outer: Literal["average", "nesterov"]
    outer_lr: float
    outer_momentum: float
    average_state: bool


class Outer:
    """The outer optimizer of DiLoCo: it takes the way that the replicas went for a gradient."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, momentum: float) -> None:
        self._common = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        # torch refuses the word nesterov without momentum; the rule is then plain SGD.
        self._sgd = torch.optim.SGD(self._common, lr=lr, momentum=momentum, nesterov=momentum > 0)

    def step(self, parameters: Sequence[nn.Parameter]) -> None:
        """Move the common weights towards the mean of the replicas, which is in `parameters`, and copy them there."""
        for common, parameter in zip(self._common, parameters, strict=True):
            common.grad = common.detach() - parameter.detach()
        self._sgd.step()
        for common, parameter in zip(self._common, parameters, strict=True):
            parameter.detach().copy_(common.detach())


class LocalSgdTrainer:
    """A whole model on every rank. Between two meetings no rank speaks to another."""

    def __init__(self, context: JobContext, workload: NeuralWorkload, model: nn.Module, rhythm: Rhythm) -> None:
        self.model, self._workload, self._rhythm = model, workload, rhythm
        self._parameters = list(model.parameters())
        self._optimizer = workload.optimizer(self._parameters)
        self._feed = Feed(context, workload)
        self._group = context.groups.get("dp_replicate")
        self._micro_batch, self._last_step = context.identity.micro_batch, context.identity.steps
        self._outer: Outer | None = None
        self._weight = 0.0
        self.notes = (_note(rhythm),)

    def batch(self, step: int) -> Numbered:
        """Fetch this rank's share of the global batch."""
        return Numbered(step, self._feed.fetch(step))

    def step(self, batch: Numbered) -> StepResult:
        """Do one update of this replica; meet the others when it is time, and after the last step."""
        rhythm, step = self._rhythm, batch.step
        self._optimizer.zero_grad(set_to_none=True)
        local = step > rhythm.warmup
        if local and self._outer is None and rhythm.outer == "nesterov":
            self._outer = Outer(self._parameters, rhythm.outer_lr, rhythm.outer_momentum)
        loss = backward(self.model, self._workload, batch.share, self._micro_batch)
        if not local:
            self._mean([p.grad for p in self._parameters if p.grad is not None], loss.weight)
        if self._workload.max_grad_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._workload.max_grad_norm)
        self._optimizer.step()
        self._weight += loss.weight if local else 0.0
        if local and ((step - rhythm.warmup) % rhythm.period == 0 or step == self._last_step):
            self._meet()
        return StepResult(loss.loss_sum, loss.weight, True)

    def _meet(self) -> None:
        state = self._moments() if self._rhythm.average_state else ()
        self._mean([*self._parameters, *state], self._weight)
        self._weight = 0.0
        if self._outer is not None:
            self._outer.step(self._parameters)

    def _mean(self, tensors: Sequence[torch.Tensor], weight: float) -> None:
        if self._group is not None:
            weighted_mean(tensors, weight, self._group)

    def _moments(self) -> Iterator[torch.Tensor]:
        """Yield what the optimizer keeps of each parameter's gradients: tensors of its shape, not the step counter."""
        for parameter in self._parameters:
            for name, value in sorted(self._optimizer.state[parameter].items()):
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and name != "step":
                    yield value

    def evaluate(self) -> Scores:
        """Evaluate this rank's share: after the last step all replicas are the same."""
        return evaluate(self._workload, self._feed, self._forward, self._micro_batch)

    def _forward(self, batch: Batch) -> Any:
        return self.model(batch.inputs)

    def close(self) -> None:
        """Give nothing back: the model goes with the process."""


def _note(rhythm: Rhythm) -> str:
    begin = f"synchronous for {rhythm.warmup} steps, then " if rhythm.warmup else ""
    what = "parameters and optimizer state" if rhythm.average_state else "parameters"
    outer = ""
    if rhythm.outer == "nesterov":
        outer = f", outer Nesterov SGD with lr {rhythm.outer_lr:g} and momentum {rhythm.outer_momentum:g}"
    return f"localsgd: {begin}mean of the {what} every {rhythm.period} steps and after the last one{outer}"


def build(context: JobContext, workload: NeuralWorkload, rhythm: Rhythm) -> Trainer:
    """Make the trainer of this rank."""
    model = weights.materialise(workload.units, workload, context, EngineOptions())
    return LocalSgdTrainer(context, workload, model, rhythm)
