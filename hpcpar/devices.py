"""What accelerators can do at most, as their makers say it. What is not here is unknown, and nothing is guessed."""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    """One device as the scheduler counts it."""

    word: str
    """What its profile's `accelerator` contains."""
    peak_flops: dict[str, float]
    """Dense operations a second, by precision; fp32 without TF32, which torch leaves off."""
    source: str
    checked: str


_A100 = "https://glennklockwood.com/garden/processors/A100 (NVIDIA A100 datasheet)"
_H100 = "https://glennklockwood.com/garden/processors/h100 (NVIDIA H100 datasheet, SXM5)"
_MI250X = (
    "https://github.com/karpathy/nanochat/blob/master/nanochat/common.py (383e12 for both dies; fp32 is not there)"
)
DEVICES = (
    Device("A100", {"fp32": 19.5e12, "bf16": 312e12}, _A100, "2026-11-21"),
    Device("GH200", {"fp32": 66.9e12, "bf16": 989.4e12}, _H100, "2026-11-21"),
    Device("H200", {"fp32": 66.9e12, "bf16": 989.4e12}, _H100, "2026-11-21"),
    Device("H100", {"fp32": 66.9e12, "bf16": 989.4e12}, _H100, "2026-11-21"),
    Device("MI250X (one of two dies)", {"bf16": 191.5e12}, _MI250X, "2026-11-21"),
)
"""The first that matches. A card of another form (PCIe) is slower: a profile that has one says so in `peak_tflops`."""


def find_device(accelerator: str) -> Device | None:
    """Return what is known of a profile's accelerator."""
    return next((device for device in DEVICES if device.word in accelerator), None)
