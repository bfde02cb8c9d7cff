"""What a training used beside time: processor seconds of this rank, and energy where a counter can be read.

Energy is the difference of two readings of a counter, never a sum of power samples: on recent devices power is sampled
for a part of the time only (Z. Yang et al., Part-time Power Measurements, 2023, arXiv:2312.02741). What cannot be read
is None, and never zero.

Utilisation is what NVML calls so: the share of a sample period of 1/6 to 1 s in which any kernel ran. A device that is
busy with one thread is fully used by that measure, so that it is no efficiency; the model's operations are (MFU).
"""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

POWERCAP = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"
SAMPLE_S = 1.0
"""Between two looks at a device's utilisation: the longest of its sample periods."""


class Used(Struct, frozen=True, kw_only=True):
    """Between the begin of a training and its end."""

    wall_s: float
    cpu_s: float
    """User and system time of this process, all of its threads."""
    device_energy_j: float | None = None
    """Of this rank's device."""
    machine_energy_j: float | None = None
    """Of all processor packages of the machine: of all that runs there."""
    device_utilisation: float | None = None
    """Mean share of time in which any kernel ran on this rank's device."""
    clock_mhz: float | None = None
    """Of the device, or of the machine's processors, at the end."""


class Meter:
    """Reads the counters when it is made, and when it is asked."""

    def __init__(self, device: Any, powercap: Path = POWERCAP) -> None:
        self._nvml = find_nvml(device)
        self._powercap = powercap
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()
        self._device_j = self._nvml.energy_j() if self._nvml else None
        self._packages_uj = packages_uj(powercap)
        self._sampler = Sampler(self._nvml, SAMPLE_S) if self._nvml else None

    def used(self) -> Used:
        """Return what was used since it was made, and sample no more."""
        device_j = self._nvml.energy_j() if self._nvml else None
        known = device_j is not None and self._device_j is not None
        return Used(
            wall_s=time.perf_counter() - self._wall_s,
            cpu_s=time.process_time() - self._cpu_s,
            device_energy_j=device_j - self._device_j if known else None,  # type: ignore[operator]
            machine_energy_j=self._machine_j(),
            device_utilisation=self._sampler.mean() if self._sampler else None,
            clock_mhz=self._nvml.clock_mhz() if self._nvml else processor_mhz(),
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


def processor_mhz(cpuinfo: Path = Path("/proc/cpuinfo")) -> float | None:
    """Return the mean clock of the machine's CPUs in MHz; None where the kernel does not tell (source: proc(5))."""
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
        return statistics.fmean(float(value) for name, _, value in lines if name.strip() == "cpu MHz")
    except (OSError, ValueError):  # statistics.StatisticsError is one
        return None


class Sampler:
    """Looks at a device's utilisation now and then, in a thread of its own: a call takes microseconds."""

    def __init__(self, nvml: NvmlDevice, every_s: float) -> None:
        self._nvml, self._every_s = nvml, every_s
        self._seen: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="hpcpar-utilisation", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(self._every_s):  # what was sampled before the begin is somebody else's
            share = self._nvml.utilisation()
            if share is None:
                return
            self._seen.append(share)

    def mean(self) -> float | None:
        """End the thread and return the mean; None where the device does not tell, or the training was too short."""
        self._over.set()
        self._thread.join(self._every_s)
        return statistics.fmean(self._seen) if self._seen else None


def find_nvml(device: Any) -> NvmlDevice | None:
    """Return the counters of a CUDA device; None without NVML, or where it does not know the device."""
    if getattr(device, "type", "cpu") != "cuda":
        return None
    import torch

    with contextlib.suppress(OSError, AttributeError):  # no library, or one that is too old
        return open_nvml(ctypes.CDLL(_NVML), f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return None


def open_nvml(library: Any, uuid: str) -> NvmlDevice | None:
    """Return the counters of the device of that name; None where NVML does not know it."""
    handle = ctypes.c_void_p()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
        return None
    return NvmlDevice(library, handle)


_CLOCK_SM = 1
"""nvmlClockType_t: NVML_CLOCK_SM."""


class _Rates(ctypes.Structure):
    """nvmlUtilization_t: percent of the last sample period."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class NvmlDevice:
    """The counters of one device. Source: NVML API reference; each answers 0 where it could."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    def energy_j(self) -> float | None:
        """Return joules since the driver was loaded (nvmlDeviceGetTotalEnergyConsumption: Volta on)."""
        millijoules = ctypes.c_ulonglong()
        failed = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(millijoules))
        return None if failed else millijoules.value / 1000

    def utilisation(self) -> float | None:
        """Return the share of the last sample period in which a kernel ran (nvmlDeviceGetUtilizationRates)."""
        rates = _Rates()
        failed = self._library.nvmlDeviceGetUtilizationRates(self._handle, ctypes.byref(rates))
        return None if failed else rates.gpu / 100

    def clock_mhz(self) -> float | None:
        """Return the clock of its multiprocessors (nvmlDeviceGetClockInfo)."""
        mhz = ctypes.c_uint()
        failed = self._library.nvmlDeviceGetClockInfo(self._handle, _CLOCK_SM, ctypes.byref(mhz))
        return None if failed else float(mhz.value)
