"""Peak memory of this process: its largest resident set, and the most that a device's allocator held."""

from __future__ import annotations

import resource
import sys
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
