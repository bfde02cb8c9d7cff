"""Activation checkpointing: keep what goes from unit to unit, compute the rest again in the backward pass."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from hpcpar.mesh_options import EngineOptions


def apply(module: nn.Module, options: EngineOptions) -> None:
    """Have a unit recomputed, in place.

    Its forward method is exchanged, and no module is put around it: names of parameters stay, and the hooks with which
    tensor parallelism and sharding prepare inputs and weights stay outside of what is done twice.
    """
    if options.activation_checkpointing == "full":
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
