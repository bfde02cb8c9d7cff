"""What PyTorch runs without a word, and wrongly: each function does it, on every rank of a pool at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from cases import build
from torch import distributed, nn

from hpcpar.worker.mesh_engine import compiling, replicate, shard


@contextmanager
def pipeline_of_ddp() -> Iterator[None]:
    """Replicate the stages of a pipeline as one would replicate a model."""

    def with_ddp(stages: Any, context: Any, options: Any) -> Any:
        group = context.groups["dp_replicate"]
        wrap = nn.parallel.DistributedDataParallel
        return nn.ModuleList([wrap(stage, process_group=group, static_graph=True) for stage in stages])

    with ExitStack() as stack:
        stack.enter_context(patch.object(replicate, "with_ddp", with_ddp))
        stack.enter_context(patch.object(replicate, "sums", lambda context, parameters: []))
        stack.enter_context(patch.object(shard, "averages_over", lambda context: context.mesh.data_ranks))
        yield


@contextmanager
def composable_replicate() -> Iterator[None]:
    """Replicate a tensor-parallel model through torch's composable function."""
    from torch.distributed._composable.replicate import replicate as composable

    def with_ddp(model: Any, context: Any, options: Any) -> Any:
        return composable(model, device_mesh=context.device_mesh["dp_replicate"])

    with patch.object(replicate, "with_ddp", with_ddp):
        yield


@contextmanager
def compiled_after_waiting() -> Iterator[None]:
    """Wait for what tensor parallelism is still sending, and hand that to compiled code."""
    with patch.object(compiling, "arrived", lambda tensor: tensor.wait() if hasattr(tensor, "wait") else tensor):
        yield


@contextmanager
def norm_of_a_part() -> Iterator[None]:
    """Clip by the norm of what this rank has."""
    from hpcpar.worker.mesh_engine.clip import Clipper

    made = Clipper.__init__

    def forgetful(self: Any, *arguments: Any) -> None:
        made(self, *arguments)
        self._groups = []

    with patch.object(Clipper, "__init__", forgetful):
        yield


def train(rank: int, *, how: str, steps: int, **arguments: Any) -> list[tuple[float, float]]:
    """Train with a wrong combination; return this rank's (loss_sum, weight) of each step."""
    with globals()[how]():
        trainer = build(rank, steps=steps, **arguments)
        results = [trainer.step(trainer.batch(step)) for step in range(1, steps + 1)]
    return [(0.0 if r.loss_sum is None else float(r.loss_sum), r.weight) for r in results]


def gathered_gradients(rank: int) -> tuple[list[float], list[float]]:
    """Differentiate through an all-gather: return what torch's gives, and what is right.

    The sum over ranks of <weights, gathered part>; so each part has its weights as gradient, once a rank. They reach
    the all-gather transposed, not contiguous.
    """
    from torch.distributed.nn.functional import all_gather

    size = distributed.get_world_size()
    weights = torch.arange(6.0).reshape(3, 2)
    mine = torch.ones(2, 3, requires_grad=True)
    sum((weights * part.t()).sum() for part in all_gather(mine)).backward()
    return mine.grad.flatten().tolist(), (size * weights.t()).flatten().tolist()
