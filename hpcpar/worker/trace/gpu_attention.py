"""Let attention take the kernels that torch would take on a GPU."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def gpu_attention(wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which fp32 attention with shared keys keeps all of its scores.

    On CUDA, torch's flash attention takes fp16 and bf16 only, and its memory-efficient kernel no grouped heads
    (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp): what is left is the one that is written in matrix products.
    """
    return _GroupedFp32() if wanted else contextlib.nullcontext()


class _GroupedFp32(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        attends = func is torch.nn.functional.scaled_dot_product_attention
        if attends and args[0].dtype == torch.float32 and kwargs.get("enable_gqa"):
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **kwargs)
        return func(*args, **kwargs)
