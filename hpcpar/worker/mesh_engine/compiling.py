"""torch.compile, unit by unit: the same under every strategy, and blocks that are alike are compiled once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.worker.neural import Unit

BACKEND = "inductor"


def apply(module: nn.Module, unit: Unit, options: EngineOptions) -> None:
    """Compile a unit, in place.

    Its forward method is exchanged: hooks of tensor parallelism and sharding on the unit itself stay outside. A table
    of embeddings is left as it is: there is nothing to fuse, and torch 2.13 cannot compile one that is split.
    """
    if not options.compile or unit.tensor.get("") == "vocabulary":
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


def phases() -> dict[str, float]:
    """Return the seconds that torch has compiled for in this process so far: a part of the first steps."""
    from torch._dynamo.utils import compilation_time_metrics

    passes = ("_compile.compile_inner", "backward._backward_impl")  # the backward pass is compiled when it first runs
    return {"compile": float(sum(sum(compilation_time_metrics.get(name, [])) for name in passes))}
