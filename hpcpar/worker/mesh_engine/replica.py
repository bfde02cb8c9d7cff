"""Train a model without a pipeline: one process, replicas under DDP, or shards under FSDP2."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.records import Step
from hpcpar.registry import Scores, StepResult
from hpcpar.worker.context import JobContext
from hpcpar.worker.learned import Learned
from hpcpar.worker.mesh_engine import noise, shard, tensor
from hpcpar.worker.mesh_engine.evaluate import evaluate, whole
from hpcpar.worker.mesh_engine.feed import Batch, Feed
from hpcpar.worker.mesh_engine.update import Update
from hpcpar.worker.neural import NeuralWorkload


class ReplicaTrainer:
    """One update is grad_accum forward and backward passes; gradients meet in the last of them."""

    def __init__(
        self, context: JobContext, workload: NeuralWorkload, model: nn.Module, update: Update, options: EngineOptions
    ) -> None:
        self.model, self._update = model, update
        self._context, self._workload, self._loss_parallel = context, workload, options.loss_parallel
        self._loss = tensor.loss(workload.loss, context, options)
        self._loss_region = partial(tensor.loss_region, context, options)
        self._feed = Feed(context, workload)
        self._micro_batch = context.identity.micro_batch
        self.small_batch = noise.small_batch(context, workload, static_graph=options.static_graph)
        # DDP and FSDP2 average over the data ranks; the loss is to be divided by the weight of all of them together.
        self._averaged_over = shard.averages_over(context)

    @property
    def learned(self) -> Learned:
        """What a checkpoint keeps."""
        return self._update.learned

    def batch(self, step: int) -> Batch:
        """Fetch this rank's share of the global batch."""
        return self._feed.fetch(step)

    def step(self, batch: Batch) -> StepResult:
        """Do one update."""
        scale = self._averaged_over / self._feed.global_weight(batch)
        self._update.begin(scale)
        pairs = list(zip(batch.inputs.split(self._micro_batch), batch.targets.split(self._micro_batch), strict=True))
        loss_sums, weight = [], 0.0
        for i, (inputs, targets) in enumerate(pairs):
            with self._gradients_meet(i == len(pairs) - 1), self._loss_region():
                loss_sum, its_weight = self._loss(self.model(inputs), targets)
                (loss_sum * scale).backward()
            loss_sums.append(loss_sum.detach())
            weight += its_weight
        loss_sum = torch.stack(loss_sums).sum()
        return StepResult(loss_sum, weight, self._update.finish(loss_sum))

    def gradient_squares(self, batch: Batch) -> tuple[float, float]:
        """Return the squared lengths of the gradients of small batches and of the global one (mesh_engine/noise.py)."""
        size, context = self.small_batch, self._context
        return noise.squares(self.model, self._loss, self._loss_region, batch, context=context, size=size)

    def evaluate(self) -> Scores:
        """Evaluate this rank's share."""
        return evaluate(self._workload, self._feed, self._forward, self._micro_batch)

    def _forward(self, batch: Batch) -> Any:
        ddp = isinstance(self.model, nn.parallel.DistributedDataParallel)
        model = self.model.module if ddp else self.model  # DDP would prepare for a backward pass
        return whole(model(batch.inputs), self._context, split=self._loss_parallel)

    def _gradients_meet(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        model: Any = self.model
        if hasattr(model, "set_requires_gradient_sync"):  # sharded
            model.set_requires_gradient_sync(last)
            return contextlib.nullcontext()
        # no_sync in a static graph fails an assertion inside torch 2.13 (reducer.cpp); reducing every time is right.
        if last or not isinstance(model, nn.parallel.DistributedDataParallel) or model.static_graph:
            return contextlib.nullcontext()
        return model.no_sync()

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what the record should."""
        return self._update.balance.notes

    def complete(self, records: Sequence[Step]) -> list[Step]:
        """Add to the records of a window what only the update knows."""
        return self._update.balance.complete(records)

    def close(self) -> None:
        """Give nothing back: the model goes with the process."""
