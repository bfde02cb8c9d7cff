"""Peak memory of this process: its largest resident set, and the most that a device's allocator held."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from typing import Any


def peak_memory_bytes(*, of_children: bool = False) -> int:
    """Return the largest resident set of this process so far, or of the largest of the children that have ended.

    Source: getrusage(2): ru_maxrss in KiB (macOS: bytes).
    """
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_bytes(device: Any) -> int:
    """Return the most memory that tensors held on the device; 0 on the CPU."""
    if getattr(device, "type", "cpu") != "cuda":
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def peak_reserved_bytes(device: Any) -> int:
    """Return the most memory that torch's allocator took from the device; 0 on the CPU."""
    if getattr(device, "type", "cpu") != "cuda":
        return 0
    import torch

    return int(torch.cuda.max_memory_reserved(device))


def held_bytes(learned: Any, device: Any) -> dict[str, int]:
    """Return what this rank's part of a model holds after its last step, by what it is.

    Keys: "parameters", "gradients", "optimizer", "buffers"; on a device also "activations": what is left of the peak
    of its allocator, so that whatever else is there for a moment counts as well.

    Args:
        learned: worker/learned.Learned.
        device: where the model is.
    """
    parameters = list(learned.parameters.values())
    states = [value for parameter in parameters for value in learned.optimizer.state.get(parameter, {}).values()]
    held = {
        "parameters": _bytes(parameters),
        "gradients": _bytes(parameter.grad for parameter in parameters if parameter.grad is not None),
        "optimizer": _bytes(value for value in states if hasattr(value, "element_size")),
        "buffers": _bytes(learned.buffers.values()),
    }
    peak = peak_device_bytes(device)
    return {**held, "activations": max(0, peak - sum(held.values()))} if peak else held


def _bytes(tensors: Iterable[Any]) -> int:
    """Add up the parts that this rank has; memory that two tensors share counts once."""
    parts = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    shared = {part.data_ptr(): part.numel() * part.element_size() for part in parts if part.numel()}
    return sum(shared.values())
