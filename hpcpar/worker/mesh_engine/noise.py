"""The gradient noise scale: how much gradients of small batches differ from those of a large one.

McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1: the squared lengths of the gradients of b and of B samples give
unbiased estimates of the squared length of the true gradient and of the trace of its covariance. What is measured here
are these squared lengths; hpcpar.analysis makes the estimates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn

from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine.feed import Batch
from hpcpar.worker.neural import Loss, NeuralWorkload

PIECES = (8, 4, 2, 1)
"""Into so many a micro-batch is cut where it can be: the smaller the small batches, the surer the estimate."""


def small_batch(context: JobContext, workload: NeuralWorkload, *, static_graph: bool) -> int:
    """Return how many samples the small gradients are of; 0 where they cannot be measured.

    A rank must have a whole gradient of its own, so that nothing but replicas is on the mesh; and DDP must not have
    planned ahead.
    """
    mesh, identity = context.mesh, context.identity
    split = max(mesh.pp, mesh.dp_shard, mesh.cp, mesh.tp, mesh.ep) > 1
    if split or static_graph or workload.declared.experts is not None:
        return 0
    size = next(identity.micro_batch // n for n in PIECES if identity.micro_batch % n == 0)
    return size if size < identity.global_batch else 0


def squares(
    model: Any,
    loss: Loss,
    loss_region: Callable[[], contextlib.AbstractContextManager[Any]],
    batch: Batch,
    *,
    context: JobContext,
    size: int,
) -> tuple[float, float]:
    """Return the mean squared length of the gradients of small batches, and that of the global batch's.

    All ranks call it at once. Nothing is updated. Needs memory for two more gradients.

    Args:
        model: as it is trained, with DDP around it or without.
        loss: what it learns.
        loss_region: the context in which that is computed.
        batch: this rank's share of a global batch.
        context: of this rank.
        size: samples of a small batch.
    """
    bare = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    parameters = [parameter for parameter in bare.parameters() if parameter.requires_grad]
    pieces = list(zip(batch.inputs.split(size), batch.targets.split(size), strict=True))
    small = torch.zeros((), device=context.device)
    whole = torch.zeros(sum(parameter.numel() for parameter in parameters), device=context.device)
    for inputs, targets in pieces:
        bare.zero_grad(set_to_none=True)
        with loss_region():
            loss_sum, weight = loss(bare(inputs), targets)
            (loss_sum / weight).backward()
        gradient = torch.cat([parameter.grad.reshape(-1) for parameter in parameters])
        small += gradient.square().sum() / len(pieces)
        whole += gradient / len(pieces)
    bare.zero_grad(set_to_none=True)
    group = context.groups.get("dp_replicate")
    if group is not None:
        for values in (small, whole):
            distributed.all_reduce(values, group=group)
    ranks = context.mesh.dp_replicate
    return float(small / ranks), float((whole / ranks).square().sum())
