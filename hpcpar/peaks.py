"""What processors can do at most, by their names: what a share of the peak (MFU) is a share of.

A device that is not in the table has no MFU: a guessed peak is how published numbers became wrong by factors.
"""

from __future__ import annotations

from typing import NamedTuple


class Peak(NamedTuple):
    """Dense matrix products, without sparsity, in 1e12 floating-point operations a second; None: not looked up."""

    words: str
    """All of them are in the device's name as its driver tells it."""
    bf16: float
    fp8: float | None = None
    fp32: float | None = None
    """On CUDA cores: torch does not use TF32 unless told to."""


PEAKS = (
    Peak("H100 NVL", 835, 1671),
    Peak("H100 PCIe", 756, 1513, 51),
    Peak("H100", 989, 1979, 67),
    Peak("H200 NVL", 836, 1671),
    Peak("H200", 989, 1979, 67),
    Peak("GH200", 989, 1979, 67),
    Peak("A100", 312, None, 19.5),
    Peak("B200", 2250, 4500),
)
"""The first that fits counts. Source: NVIDIA's data sheets of these products (2026-11), their figures with sparsity
halved."""


def peak_flops(device: str, precision: str = "bf16") -> float | None:
    """Return the peak of a device in floating-point operations a second; None where it is not known.

    Args:
        device: its name as the driver tells it, e.g. "NVIDIA H100 80GB HBM3".
        precision: "bf16", "fp8" or "fp32".
    """
    words = device.replace("-", " ").split()
    if "MIG" in words:  # a part of a device
        return None
    found = next((peak for peak in PEAKS if all(word in words for word in peak.words.split())), None)
    value = getattr(found, precision, None) if found is not None and precision in ("bf16", "fp8", "fp32") else None
    return None if value is None else value * 1e12
