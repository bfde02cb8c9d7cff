"""This rank's share of the global batch, and what the whole batch weighs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed

from hpcpar.worker.context import JobContext
from hpcpar.worker.neural import NeuralWorkload
from hpcpar.worker.sampling import Sampler


class Batch(NamedTuple):
    """Inputs and targets of this data rank: grad_accum x micro_batch samples, the micro-batches one after the other."""

    inputs: Any
    targets: Any


class Feed:
    """Fetches batches by step and weighs them."""

    def __init__(self, context: JobContext, workload: NeuralWorkload) -> None:
        self._context, self._workload = context, workload
        identity = context.identity
        self._sampler = Sampler(len(workload.samples), identity.global_batch, identity.seed)
        self._groups = [context.groups[axis] for axis in ("dp_replicate", "dp_shard", "cp") if axis in context.groups]

    def fetch(self, step: int) -> Batch:
        """Return this data rank's contiguous slice of the global batch of `step`, on the device."""
        ids_B = self._sampler.ids(step, self._context.data_rank, self._context.mesh.data_ranks)
        inputs, targets = self._workload.samples.fetch(ids_B)
        return Batch(self._mine(inputs), self._mine(targets))

    def evaluation(self, size: int) -> Iterator[tuple[Batch, int]]:
        """Yield this data rank's share of the evaluation samples, and how many samples of each batch count.

        All ranks get equally many batches of exactly `size` samples, as their forward passes may be collective: what
        is missing at the end is filled up with samples that do not count.
        """
        assert self._workload.evaluation is not None, "the caller asked for it"
        samples, context = self._workload.evaluation.samples, self._context
        for begin in range(0, len(samples), size * context.mesh.data_ranks):
            places_B: np.ndarray = np.arange(size) + begin + context.data_rank * size
            inputs, targets = samples.fetch(np.minimum(places_B, len(samples) - 1))
            yield Batch(self._mine(inputs), self._mine(targets)), int((places_B < len(samples)).sum())

    def _mine(self, tensor_BS: Any) -> Any:
        """Return this rank's slice of the sequence, on the device; the whole of it without context parallelism."""
        if self._context.mesh.cp > 1:
            tensor_BS = tensor_BS.chunk(self._context.mesh.cp, dim=1)[self._context.place["cp"]].contiguous()
        return tensor_BS.to(self._context.device)

    def global_weight(self, batch: Batch) -> float:
        """Return the weight of the global batch; ranks speak to each other only where samples may weigh differently."""
        if self._workload.sample_weight is not None:
            return self._workload.sample_weight * self._context.identity.global_batch
        weight = torch.tensor(self._workload.weigh(batch.targets), dtype=torch.float64, device=self._context.device)
        for group in self._groups:
            distributed.all_reduce(weight, group=group)
        return float(weight)
