"""Evaluate the trained model: forward passes over samples that training never saw, on the mesh that trained it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hpcpar.registry import Scores
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine.feed import Batch, Feed
from hpcpar.worker.neural import NeuralWorkload


def evaluate(workload: NeuralWorkload, feed: Feed, forward: Callable[[Batch], Any], size: int) -> Scores:
    """Return what this rank's share adds up to.

    Args:
        workload: has an evaluation.
        feed: brings the samples.
        forward: a batch of exactly `size` samples -> outputs, whole in their last axis; None on a rank that has none.
        size: samples a forward pass.
    """
    assert workload.evaluation is not None, "the worker asks for it only where there is one"
    sums, weights = [torch.zeros(2, dtype=torch.float64)], [0.0, 0.0]
    with torch.no_grad():
        for batch, count in feed.evaluation(size):
            output = forward(batch)
            if output is None or not count:
                continue
            pairs = [
                measure(output[:count], batch.targets[:count]) for measure in (workload.loss, workload.evaluation.score)
            ]
            sums.append(torch.stack([torch.as_tensor(value).double().cpu() for value, _ in pairs]))
            weights = [total + weight for total, (_, weight) in zip(weights, pairs, strict=True)]
    loss_sum, score_sum = torch.stack(sums).sum(0).tolist()
    return Scores(loss_sum, weights[0], score_sum, weights[1])


def whole(output: Any, context: JobContext, *, split: bool) -> Any:
    """Return outputs whose last axis may be split over tp (loss parallel) as whole ones."""
    if not split or context.mesh.tp == 1:
        return output
    from torch.distributed.tensor import DTensor, Shard

    return DTensor.from_local(output, context.device_mesh["tp"], (Shard(-1),), run_check=False).full_tensor()
