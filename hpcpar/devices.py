"""What accelerators can do at most, as their makers say it: what a plan expects a share of, and what MFU is a share of.

What is not here is unknown, and nothing is guessed: a guessed peak is how published numbers became wrong by factors.
"""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    """One device as the scheduler and torch count it."""

    word: str
    """All of its words are in the device's name, as a profile's `accelerator` or the driver tells it."""
    peak_flops: dict[str, float]
    """Dense operations a second, without sparsity, by precision; fp32 without TF32, which torch leaves off."""
    source: str
    checked: str


_A100 = "https://glennklockwood.com/garden/processors/A100 (NVIDIA A100 datasheet)"
_H100 = "https://glennklockwood.com/garden/processors/h100 (NVIDIA H100 datasheet, SXM5)"
_H100_CARDS = "https://www.nvidia.com/en-us/data-center/h100 (datasheet, its figures with sparsity halved)"
_H200_CARD = "https://www.nvidia.com/en-us/data-center/h200 (datasheet, its figures with sparsity halved)"
_B200 = "https://www.nvidia.com/en-us/data-center/hgx (HGX B200, a GPU of eight, its figures with sparsity halved)"
_MI250X = (
    "https://github.com/karpathy/nanochat/blob/master/nanochat/common.py (383e12 for both dies; fp32 is not there)"
)
_HOPPER = {"fp32": 66.9e12, "bf16": 989.4e12, "fp8": 1978.9e12}
_TODAY = "2026-11-21"
DEVICES = (
    Device("A100", {"fp32": 19.5e12, "bf16": 312e12}, _A100, _TODAY),
    Device("GH200", _HOPPER, _H100, _TODAY),
    Device("H200 NVL", {"bf16": 835.5e12, "fp8": 1670.5e12}, _H200_CARD, _TODAY),
    Device("H200", _HOPPER, _H100, _TODAY),
    Device("H100 NVL", {"bf16": 835.5e12, "fp8": 1670.5e12}, _H100_CARDS, _TODAY),
    Device("H100 PCIe", {"fp32": 51e12, "bf16": 756e12, "fp8": 1513e12}, _H100_CARDS, _TODAY),
    Device("H100", _HOPPER, _H100, _TODAY),
    Device("B200", {"bf16": 2250e12, "fp8": 4500e12}, _B200, _TODAY),
    Device("MI250X (one of two dies)", {"bf16": 191.5e12}, _MI250X, _TODAY),
)
"""The first that matches."""


def find_device(name: str) -> Device | None:
    """Return what is known of a device, by its driver's name ("NVIDIA A100-SXM4-40GB") or a profile's `accelerator`."""
    words = name.replace("-", " ").split()
    if "MIG" in words:  # a part of a device
        return None
    return next((device for device in DEVICES if all(word in words for word in device.word.split())), None)


def peak_flops(name: str, precision: str = "bf16") -> float | None:
    """Return the peak of a device in floating-point operations a second; None where it is not known."""
    device = find_device(name)
    return device.peak_flops.get(precision) if device is not None else None
