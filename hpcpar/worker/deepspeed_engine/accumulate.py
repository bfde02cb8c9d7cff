"""Train a whole model, or this rank's slices of it, under DeepSpeed's engine."""

from __future__ import annotations

from typing import Any

import torch

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Scores, StepResult
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import precision
from hpcpar.worker.mesh_engine.evaluate import evaluate
from hpcpar.worker.mesh_engine.feed import Batch, Feed
from hpcpar.worker.neural import NeuralWorkload


class EngineTrainer:
    """One update is grad_accum forward and backward passes; DeepSpeed counts them and knows the last one."""

    def __init__(self, context: JobContext, workload: NeuralWorkload, options: EngineOptions, engine: Any) -> None:
        self.model, self._engine, self._workload = engine.module, engine, workload
        self._loss = precision.loss(workload.loss, options)
        self._feed = Feed(context, workload)
        self._micro_batch = context.identity.micro_batch
        # DeepSpeed averages over the data ranks; the loss is to be divided by the weight of all of them together.
        self._averaged_over = context.mesh.data_ranks

    def batch(self, step: int) -> Batch:
        """Fetch this rank's share of the global batch."""
        return self._feed.fetch(step)

    def step(self, batch: Batch) -> StepResult:
        """Do one update."""
        scale = self._averaged_over / self._feed.global_weight(batch)
        loss_sums, weight = [], 0.0
        for inputs, targets in zip(
            batch.inputs.split(self._micro_batch), batch.targets.split(self._micro_batch), strict=True
        ):
            loss_sum, its_weight = self._loss(self._engine(inputs), targets)
            # scale_wrt_gas=False: the global weight counts all micro-batches already.
            self._engine.backward(loss_sum * scale, scale_wrt_gas=False)
            self._engine.step()
            loss_sums.append(loss_sum.detach())
            weight += its_weight
        return StepResult(torch.stack(loss_sums).sum(), weight, self._engine.was_step_applied())

    def evaluate(self) -> Scores:
        """Evaluate this rank's share."""
        return evaluate(self._workload, self._feed, lambda batch: self._engine(batch.inputs), self._micro_batch)

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model."""
        self._engine.destroy()
