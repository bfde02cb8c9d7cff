"""torch.compile, unit by unit: the same under every strategy, and blocks that are alike are compiled once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hpcpar.mesh_options import EngineOptions

BACKEND = "inductor"


def apply(module: nn.Module, options: EngineOptions) -> None:
    """Compile a unit, in place.

    Its forward method is exchanged: hooks of tensor parallelism and sharding on the unit itself stay outside.
    """
    if not options.compile:
        return
    compiled = torch.compile(module.forward, backend=BACKEND, dynamic=False)

    def forward(*inputs: Any) -> Any:
        return compiled(*map(arrived, inputs))

    module.forward = forward


def arrived(tensor: Any) -> Any:
    """Wait for a tensor that is still on its way (a result of tensor parallelism), and keep its gradient.

    Compiled code takes such a tensor out of its wrapper, and loses the gradient with the wrapper: what came before,
    e.g. the embedding, would silently not be trained (torch 2.13).
    """
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    return _Arrival.apply(tensor) if isinstance(tensor, AsyncCollectiveTensor) else tensor


class _Arrival(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Any) -> Any:
        return tensor.wait()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient


def seconds() -> float:
    """Return how long torch has compiled in this process so far, of the first steps mostly."""
    from torch._dynamo.utils import compilation_time_metrics

    return float(sum(compilation_time_metrics.get("_compile.compile_inner", [])))
