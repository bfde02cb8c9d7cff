"""Counters of energy as files and as a library that plays NVML; processors, memory, and what a record says of code.

The files and answers are written after the kernel's and NVIDIA's documentation: this machine has neither counter.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcpar.worker import provenance
from hpcpar.worker.measure.usage import Meter, Sampler, open_nvml, packages_uj, processor_mhz


class Device:
    type = "cpu"


def package(root: Path, number: int, value_uj: int, name: str = "package-0") -> Path:
    zone = root / f"intel-rapl:{number}"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "energy_uj").write_text(f"{value_uj}\n")
    (zone / "max_energy_range_uj").write_text("1000000000\n")
    return zone


def test_packages_are_added_up_and_their_counters_may_begin_anew(tmp_path: Path) -> None:
    package(tmp_path, 0, 5_000_000)
    package(tmp_path, 1, 999_000_000, "package-1")
    package(tmp_path, 2, 1, "psys")
    meter = Meter(Device(), tmp_path)
    package(tmp_path, 0, 9_000_000)
    package(tmp_path, 1, 500_000, "package-1")
    package(tmp_path, 2, 10**9, "psys")

    # Four joules, and one and a half around the end of the range; psys would count both packages again.
    assert meter.used().machine_energy_j == pytest.approx(4.0 + 1.5)


def test_without_counters_there_is_no_energy(tmp_path: Path) -> None:
    used = Meter(Device(), tmp_path).used()
    assert (used.machine_energy_j, used.device_energy_j) == (None, None)
    (package(tmp_path, 0, 1) / "energy_uj").write_text("no number")
    assert packages_uj(tmp_path) == {}


def test_processor_seconds_are_those_of_this_process(tmp_path: Path) -> None:
    meter = Meter(Device(), tmp_path)
    begun = time.process_time()
    while time.process_time() - begun < 0.05:
        pass
    used = meter.used()
    assert 0.05 <= used.cpu_s <= used.wall_s + 0.05


class Nvml:
    """Answers as the library does: 0 for success, numbers through pointers."""

    def __init__(
        self, energies_mj: list[int], rates: Sequence[int] = (), *, knows: bool = True, counts: bool = True
    ) -> None:
        self._energies_mj, self._knows, self._counts = iter(energies_mj), knows, counts
        self._rates, self.done = iter(rates), threading.Event()

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        assert uuid == b"GPU-1"
        return 0 if self._knows else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, place: Any) -> int:
        if not self._counts:
            return 3
        place._obj.value = next(self._energies_mj)
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: Any, place: Any) -> int:
        rate = next(self._rates, None)
        if rate is None:
            self.done.set()
            return 3  # NVML_ERROR_NOT_SUPPORTED
        place._obj.gpu, place._obj.memory = rate, 99
        return 0

    def nvmlDeviceGetClockInfo(self, handle: Any, kind: int, place: Any) -> int:
        assert kind == 1
        place._obj.value = 1980
        return 0 if self._counts else 3


def test_a_device_s_counter_is_in_millijoules() -> None:
    device = open_nvml(Nvml([1500, 2750]), "GPU-1")
    assert device is not None
    assert [device.energy_j(), device.energy_j()] == [1.5, 2.75]
    assert device.clock_mhz() == 1980


def test_a_device_without_a_counter_or_that_is_not_known_has_none() -> None:
    device = open_nvml(Nvml([], counts=False), "GPU-1")
    assert device is not None
    assert device.energy_j() is None
    assert device.clock_mhz() is None
    assert open_nvml(Nvml([], knows=False), "GPU-1") is None


def test_utilisation_is_the_mean_of_what_the_device_told_in_percent() -> None:
    library = Nvml([], [100, 50, 0])
    device = open_nvml(library, "GPU-1")
    assert device is not None
    sampler = Sampler(device, 0.001)
    assert library.done.wait(30)
    assert sampler.mean() == pytest.approx(0.5)


def test_a_device_that_does_not_tell_its_utilisation_has_none() -> None:
    device = open_nvml(Nvml([]), "GPU-1")
    assert device is not None
    assert Sampler(device, 0.001).mean() is None


def test_the_clock_of_processors_is_the_mean_where_the_kernel_tells(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\ncpu MHz\t\t: 2000.0\nprocessor\t: 1\ncpu MHz\t\t: 3000.5\n")
    assert processor_mhz(tmp_path / "cpuinfo") == 2500.25
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert processor_mhz(tmp_path / "cpuinfo") is None
    assert processor_mhz(tmp_path / "nothing") is None


def test_the_processor_is_named_as_it_calls_itself(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor\t: 1\n")
    assert provenance.processor(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    assert provenance.processor(tmp_path / "nothing")


def test_a_driver_tells_its_version_in_a_file(tmp_path: Path) -> None:
    assert provenance.device_names(Device()) == ("", "")


def test_secrets_and_what_no_library_reads_stay_out_of_the_record() -> None:
    environment = {
        "OMP_NUM_THREADS": "4",
        "NCCL_DEBUG": "x" * 2000,
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_ACCOUNT": "money",
        "HOME": "/home/me",
        "NVIDIA_API_KEY": "hidden",
        "TORCH_TOKEN": "hidden",
        "MKL_AUTHORITY": "hidden",
        "UCX_TLS": "rc",
    }
    found = provenance.listed(environment)
    assert set(found) == {"OMP_NUM_THREADS", "NCCL_DEBUG", "SLURM_JOB_ID", "UCX_TLS"}
    assert len(found["NCCL_DEBUG"]) == 1000


def test_the_code_s_digest_changes_with_a_byte_and_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = provenance.code_digest(tmp_path)
    (tmp_path / "a.py").write_text("2")
    second = provenance.code_digest(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, provenance.code_digest(tmp_path)}) == 3


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_says_its_commit_and_what_was_changed(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        author = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *author, *words], check=True, capture_output=True)

    assert provenance.checkout(tmp_path / "package") == {}
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = provenance.checkout(tmp_path / "package")
    assert set(clean) == {"commit"}
    assert len(clean["commit"]) == 40
    (tmp_path / "package" / "a.py").write_text("2")
    changed = provenance.checkout(tmp_path / "package")
    assert changed["commit"] == clean["commit"]
    assert len(changed["changes_sha256"]) == 16
