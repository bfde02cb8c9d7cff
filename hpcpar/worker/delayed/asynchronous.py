"""Train asynchronously: every rank takes what parameters there are and brings a gradient. Imports torch.

All ranks work, rank 0 too, which also serves. A step of a rank is one gradient; step t of the study is update t, one
global batch. The training loop lets the ranks meet at the end of each of its windows: no rank's lead outlives a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import distributed, nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.records import Step
from hpcpar.registry import Scores, StepResult, Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.delayed.average import flatten, unflatten
from hpcpar.worker.delayed.link import Far, Link, Near, serve
from hpcpar.worker.delayed.server import Arrival, Gradient, Server
from hpcpar.worker.delayed.share import Numbered, backward
from hpcpar.worker.mesh_engine import weights
from hpcpar.worker.mesh_engine.evaluate import evaluate
from hpcpar.worker.mesh_engine.feed import Batch, Feed
from hpcpar.worker.neural import NeuralWorkload


class AsyncTrainer:
    """A whole model on every rank; its parameters are overwritten by the server's in every step."""

    def __init__(
        self, context: JobContext, workload: NeuralWorkload, model: nn.Module, link: Link, server: Server | None
    ) -> None:
        self.model, self._workload, self._link, self._server = model, workload, link, server
        self._parameters = list(model.parameters())
        self._feed = Feed(context, workload)
        self._micro_batch, self._num_ranks = context.identity.micro_batch, context.mesh.dp_replicate
        self._last_step = context.identity.steps
        self._group = context.groups.get("dp_replicate")

    def batch(self, step: int) -> Numbered:
        """Fetch this rank's share of the global batch."""
        return Numbered(step, self._feed.fetch(step))

    def step(self, batch: Numbered) -> StepResult:
        """Take the newest parameters, waiting only where they are too old, and bring a gradient."""
        pulled = self._link.pull(batch.step)
        self._load(pulled.flat)
        for parameter in self._parameters:
            parameter.grad = None
        loss = backward(self.model, self._workload, batch.share, self._micro_batch)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        self._link.push(batch.step, Gradient(pulled.version, flatten(gradients).cpu(), loss.weight))
        return StepResult(loss.loss_sum, loss.weight, True)

    def _load(self, flat: torch.Tensor) -> None:
        for parameter, values in zip(self._parameters, unflatten(flat, self._parameters), strict=True):
            parameter.detach().copy_(values)

    def arrivals(self, step: int) -> list[Arrival]:
        """Return, once update `step` is applied, its gradients in the order of their arrival; rank 0, once a step."""
        assert self._server is not None, "rank 0 serves"
        found = self._server.arrivals(step)
        if step == self._last_step:
            self._load(self._server.pull(step).flat)
        return found

    def complete(self, records: Sequence[Step]) -> list[Step]:
        """Add to the records of a window who brought the gradients, in which order, and how stale they were."""
        return [
            msgspec.structs.replace(record, arrivals=[tuple(arrival) for arrival in self.arrivals(record.step)])
            for record in records
        ]

    @property
    def notes(self) -> tuple[str, ...]:
        """Say who worked and how stale the gradients were."""
        counts = self._server.staleness_counts if self._server is not None else {}
        total = sum(counts.values())
        if not total:
            return ()
        mean = sum(staleness * count for staleness, count in counts.items()) / total
        workers = f"{self._num_ranks} ranks worked, rank 0 also served the parameters"
        stale = f"staleness of {total} gradients: mean {mean:.3g}, largest {max(counts)}"
        return (f"async: {workers}; {stale}; all ranks meet at the end of a window of records",)

    def evaluate(self) -> Scores:
        """Evaluate this rank's share with the parameters of the last update."""
        flat = flatten(self._parameters)
        if self._server is not None:
            flat.copy_(self._server.after(self._last_step))
        if self._group is not None:
            distributed.broadcast(flat, group=self._group, group_src=0)
        self._load(flat)
        return evaluate(self._workload, self._feed, self._forward, self._micro_batch)

    def _forward(self, batch: Batch) -> Any:
        return self.model(batch.inputs)

    def close(self) -> None:
        """Give nothing back: the threads have ended with the last step, or end with the process."""


def build(context: JobContext, workload: NeuralWorkload, bound: int) -> Trainer:
    """Make the trainer of this rank; on rank 0 the server, too, and its threads."""
    model = weights.materialise(workload.units, workload, context, EngineOptions())
    parameters = list(model.parameters())
    like = flatten(parameters).cpu()
    num_ranks = context.mesh.dp_replicate
    group, patience_s = (None, 60.0) if num_ranks == 1 else _host_group(context)
    if context.info.rank:
        return AsyncTrainer(context, workload, model, Far(like, group), None)
    server = Server(
        parameters, workload.optimizer, num_ranks, bound, patience_s=patience_s, max_grad_norm=workload.max_grad_norm
    )
    serve(server, range(1, num_ranks), context.identity.steps, like, group)
    return AsyncTrainer(context, workload, model, Near(server), server)


def _host_group(context: JobContext) -> tuple[Any, float]:
    """Return a gloo group of all ranks, and its timeout in seconds: that of the default group."""
    world = distributed.group.WORLD
    timeout = world._get_backend(context.device).options._timeout
    if context.device.type == "cpu":
        return world, timeout.total_seconds()
    return distributed.new_group(backend="gloo", timeout=timeout), timeout.total_seconds()
