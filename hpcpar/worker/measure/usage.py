"""What a training used beside time: processor seconds of this rank, and energy where a counter can be read.

Energy is the difference of two readings of a counter, never a sum of power samples: on recent devices power is sampled
for a part of the time only (Z. Yang et al., Part-time Power Measurements, 2023, arXiv:2312.02741). What cannot be read
is None, and never zero.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

POWERCAP = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"


class Used(Struct, frozen=True, kw_only=True):
    """Between the begin of a training and its end."""

    wall_s: float
    cpu_s: float
    """User and system time of this process, all of its threads."""
    device_energy_j: float | None = None
    """Of this rank's device."""
    machine_energy_j: float | None = None
    """Of all processor packages of the machine: of all that runs there."""


class Meter:
    """Reads the counters when it is made, and when it is asked."""

    def __init__(self, device: Any, powercap: Path = POWERCAP) -> None:
        self._device_counter = device_counter(device)
        self._powercap = powercap
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()
        self._device_j = self._device_counter() if self._device_counter else None
        self._packages_uj = packages_uj(powercap)

    def used(self) -> Used:
        """Return what was used since it was made."""
        device_j = self._device_counter() if self._device_counter else None
        known = device_j is not None and self._device_j is not None
        return Used(
            wall_s=time.perf_counter() - self._wall_s,
            cpu_s=time.process_time() - self._cpu_s,
            device_energy_j=device_j - self._device_j if known else None,  # type: ignore[operator]
            machine_energy_j=self._machine_j(),
        )

    def _machine_j(self) -> float | None:
        now_uj = packages_uj(self._powercap)
        if not now_uj or set(now_uj) != set(self._packages_uj):
            return None
        total_uj = 0
        for package, value_uj in now_uj.items():
            grown_uj = value_uj - self._packages_uj[package]
            total_uj += grown_uj if grown_uj >= 0 else grown_uj + _range_uj(package)
        return total_uj / 1e6


def packages_uj(powercap: Path = POWERCAP) -> dict[Path, int]:
    """Read the energy counters of all processor packages in microjoules; {} where they cannot be read.

    Source: Linux kernel documentation, power/powercap/powercap.rst. Since 2020 most systems let only root read them.
    """
    try:
        zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
        packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        return {zone: int((zone / "energy_uj").read_text()) for zone in packages}
    except (OSError, ValueError):
        return {}


def _range_uj(package: Path) -> int:
    """Return where a counter begins anew."""
    try:
        return int((package / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        return 0


def device_counter(device: Any) -> Any:
    """Return a function that reads the energy counter of a CUDA device in joules (or None); None without NVML."""
    if getattr(device, "type", "cpu") != "cuda":
        return None
    import torch

    with contextlib.suppress(OSError, AttributeError):  # no library, or one that is too old
        return nvml_counter(ctypes.CDLL(_NVML), f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return None


def nvml_counter(library: Any, uuid: str) -> Any:
    """Return a function that reads a device's counter in joules; None where NVML does not know the device.

    Source: NVML API reference, nvmlDeviceGetTotalEnergyConsumption: millijoules since the driver was loaded (Volta on).
    """
    handle = ctypes.c_void_p()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
        return None

    def read_j() -> float | None:
        millijoules = ctypes.c_ulonglong()
        failed = library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        return None if failed else millijoules.value / 1000

    return read_j
