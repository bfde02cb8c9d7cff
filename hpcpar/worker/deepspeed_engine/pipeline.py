"""DeepSpeed's pipeline engine over the workload's units. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import StepResult, Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.deepspeed_engine import runtime
from hpcpar.worker.mesh_engine import precision, stages, weights
from hpcpar.worker.mesh_engine.feed import Batch, Feed
from hpcpar.worker.neural import NeuralWorkload

ZERO_STAGE = 1
"""At stage 0 DeepSpeed 0.19 clips by the norm of the first stage alone, without a word; it refuses stages 2 and 3."""


class PipelineTrainer:
    """The first stage reads inputs, the last one reads targets and knows the loss."""

    def __init__(self, context: JobContext, workload: NeuralWorkload, losses: _Losses, engine: Any) -> None:
        self.model, self._engine, self._losses = engine.module, engine, losses
        self._workload, self._feed = workload, Feed(context, workload)
        self._micro_batch = context.identity.micro_batch

    def batch(self, step: int) -> Batch:
        """Fetch this rank's share of the global batch."""
        return self._feed.fetch(step)

    def step(self, batch: Batch) -> StepResult:
        """Do one update."""
        self._losses.begin(self._feed.global_weight(batch))
        parts = (batch.inputs.split(self._micro_batch), batch.targets.split(self._micro_batch))
        self._engine.train_batch(zip(*parts, strict=True))
        if not self._losses.sums:
            return StepResult(None, 0.0, self._engine.was_step_applied())
        weight = self._workload.weigh(batch.targets)
        return StepResult(torch.stack(self._losses.sums).sum(), weight, self._engine.was_step_applied())

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model."""
        self._engine.destroy()


class _Losses:
    """The loss of a micro-batch as DeepSpeed wants it, and as the records want it."""

    def __init__(self, context: JobContext, workload: NeuralWorkload, options: EngineOptions) -> None:
        self._loss_of = precision.loss(workload.loss, options)
        # DeepSpeed divides by the number of micro-batches and averages over the replicas.
        self._divided_by = context.identity.grad_accum * context.mesh.dp_replicate
        self._global_weight = 1.0
        self.sums: list[Any] = []

    def begin(self, global_weight: float) -> None:
        """Begin a step."""
        self._global_weight, self.sums = global_weight, []

    def __call__(self, output: Any, targets: Any) -> Any:
        loss_sum, _ = self._loss_of(output, targets)
        self.sums.append(loss_sum.detach())
        return loss_sum * (self._divided_by / self._global_weight)


def build(context: JobContext, workload: NeuralWorkload, options: EngineOptions) -> Trainer:
    """Make the trainer of this rank."""
    deepspeed = runtime.load(context, workload)
    from deepspeed.runtime.pipe.topology import PipeDataParallelTopology

    mesh, losses = context.mesh, _Losses(context, workload, options)
    (mine,) = stages.cut(workload.units, context, EngineOptions())
    stage = weights.materialise(mine.units, workload, runtime.alone(context), options)
    # One layer a stage, so that DeepSpeed cuts where the strategy pp does; those of other ranks need no weights here.
    layers = [stage if number == mine.number else nn.Identity() for number in range(mine.num_stages)]
    model = deepspeed.PipelineModule(
        layers=layers,
        topology=PipeDataParallelTopology(num_pp=mesh.pp, num_dp=mesh.dp_replicate),
        loss_fn=losses,
        partition_method="uniform",
    )
    config = runtime.settings(context, workload, {"stage": ZERO_STAGE})
    engine = runtime.initialize(deepspeed, model, workload, config)
    return PipelineTrainer(context, workload, losses, engine)
