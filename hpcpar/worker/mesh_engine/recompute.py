"""Activation checkpointing: keep what goes from unit to unit, compute the rest again in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from hpcpar.mesh_options import EngineOptions

_aten = torch.ops.aten
KEPT: list[Any] = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._scaled_mm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""What costs most of the time of a unit: "selective" keeps what these gave."""


def apply(module: nn.Module, options: EngineOptions) -> None:
    """Have a unit recomputed, in place.

    Its forward method is exchanged, and no module is put around it: names of parameters stay, and the hooks with which
    tensor parallelism and sharding prepare inputs and weights stay outside of what is done twice.
    """
    if options.activation_checkpointing == "none":
        return
    more: dict[str, Any] = {}
    if options.activation_checkpointing == "selective":
        more["context_fn"] = partial(create_selective_checkpoint_contexts, KEPT)
    inner = module.forward

    def forward(*inputs: Any) -> Any:
        return checkpoint(inner, *inputs, use_reentrant=False, **more)

    module.forward = forward
