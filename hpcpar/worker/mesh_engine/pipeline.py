"""Train the stages that a rank has of a pipeline: micro-batches are the accumulation steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed import pipelining

from hpcpar.mesh_options import EngineOptions
from hpcpar.records import Step
from hpcpar.registry import Scores, StepResult
from hpcpar.schedules import SCHEDULES
from hpcpar.worker.context import JobContext
from hpcpar.worker.learned import Learned
from hpcpar.worker.mesh_engine import shard, tensor
from hpcpar.worker.mesh_engine.evaluate import evaluate, whole
from hpcpar.worker.mesh_engine.feed import Batch, Feed
from hpcpar.worker.mesh_engine.stages import Stage
from hpcpar.worker.mesh_engine.update import Update
from hpcpar.worker.neural import NeuralWorkload


class _Stage(pipelining.PipelineStage):
    """A stage that begins a step anew when torch has found out about shapes.

    In its first step torch 2.13 sends a micro-batch through the stages and back for that, and what a module counts in
    its backward pass would count it as well.
    """

    def __init__(self, begin: Callable[[], None], *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._begin = begin

    def _post_metadata_inference_cleanup(self) -> None:
        super()._post_metadata_inference_cleanup()
        self._begin()


class PipelineTrainer:
    """The first stage reads inputs, the last one reads targets and knows the loss; one rank may have both."""

    def __init__(
        self,
        context: JobContext,
        workload: NeuralWorkload,
        *,
        stages: list[Stage],
        model: nn.ModuleList,
        update: Update,
        options: EngineOptions,
    ) -> None:
        self.model, self._workload, self._update = model, workload, update
        self._context, self._loss_parallel = context, options.loss_parallel
        self._loss_of = tensor.loss(workload.loss, context, options)
        self._loss_region = partial(tensor.loss_region, context, options)
        self._feed = Feed(context, workload)
        self._averaged_over = shard.averages_over(context)
        self._global_weight = 1.0
        self._first = stages[0].number == 0
        self._last = stages[-1].number == stages[-1].num_stages - 1
        self._schedule = self._make_schedule(context, stages, options)

    def _make_schedule(self, context: JobContext, stages: list[Stage], options: EngineOptions) -> Any:
        facts = SCHEDULES[options.schedule]
        group = context.groups["pp"]
        made = [
            _Stage(self._begin, module, stage.number, stage.num_stages, context.device, group=group)
            for stage, module in zip(stages, self.model, strict=True)
        ]
        schedule = getattr(pipelining.schedules, facts.torch_name)
        # scale_grads=False: `_loss` has divided by the weight of the whole batch already.
        return schedule(
            made[0] if issubclass(schedule, pipelining.schedules.PipelineScheduleSingle) else made,
            n_microbatches=context.identity.grad_accum,
            loss_fn=self._loss,
            scale_grads=False,
        )

    def _loss(self, output: Any, targets: Any) -> Any:
        loss_sum, _ = self._loss_of(output, targets)
        return loss_sum * self._averaged_over / self._global_weight

    def _begin(self) -> None:
        self._update.begin(self._averaged_over / self._global_weight)

    @property
    def learned(self) -> Learned:
        """What a checkpoint keeps."""
        return self._update.learned

    def batch(self, step: int) -> Batch:
        """Fetch this rank's share of the global batch."""
        return self._feed.fetch(step)

    def step(self, batch: Batch) -> StepResult:
        """Do one update."""
        self._global_weight = self._feed.global_weight(batch)
        self._begin()
        losses: list[Any] = []
        inputs = (batch.inputs,) if self._first else ()
        last: dict[str, Any] = {"target": batch.targets, "losses": losses} if self._last else {}
        with self._loss_region():
            self._schedule.step(*inputs, **last, return_outputs=False)
        loss_sum = torch.stack([loss.detach() for loss in losses]).sum() if losses else None
        applied = self._update.finish(loss_sum)
        if loss_sum is None:
            return StepResult(None, 0.0, applied)
        weight = self._workload.weigh(batch.targets)
        return StepResult(loss_sum * (self._global_weight / self._averaged_over), weight, applied)

    def evaluate(self) -> Scores:
        """Evaluate this rank's share; it counts where the last stage is."""
        # A schedule takes batches of the size that it was made for.
        size = self._context.identity.micro_batch * self._context.identity.grad_accum
        return evaluate(self._workload, self._feed, self._forward, size)

    def _forward(self, batch: Batch) -> Any:
        inputs = (batch.inputs,) if self._first else ()
        # torch's schedules compute a loss wherever they were made with one, and want targets for it.
        last: dict[str, Any] = {"target": batch.targets, "losses": []} if self._last else {}
        with self._loss_region():
            output = self._schedule.eval(*inputs, **last)
        return None if output is None else whole(output, self._context, split=self._loss_parallel)

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what the record should."""
        return self._update.balance.notes

    def complete(self, records: Sequence[Step]) -> list[Step]:
        """Add to the records of a window what only the update knows."""
        return self._update.balance.complete(records)

    def close(self) -> None:
        """Give nothing back: the model goes with the process."""
