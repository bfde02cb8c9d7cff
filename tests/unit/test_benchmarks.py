"""The parts of the benchmarks that decide, on numbers that are known; what they measure is no matter for tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    import gpu_check

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other take long on a busy machine
    yield gpu_check
    torch.set_num_threads(threads)


@pytest.fixture
def overhead(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    import overhead

    return overhead


def test_without_a_gpu_it_says_so(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert gpu_check.main() == 2
    message = "gpu-check needs an NVIDIA GPU: this torch was built without CUDA. Nothing was run.\n"
    assert capsys.readouterr().err == message


def test_every_strategy_of_the_mesh_trains_in_both_precisions(gpu_check: Any) -> None:
    names = gpu_check.mesh_strategies()
    assert {"single", "ddp", "fsdp", "tp", "cp", "pp", "hybrid"} <= set(names)
    ((name, exact, rounded),) = gpu_check.parity(torch.device("cpu"), names[-1:])
    assert name == names[-1]
    assert exact == 0
    assert 0 < rounded < gpu_check.BF16_BAND


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GeForce GT 710", None),
    ],
)
def test_only_known_devices_have_a_peak(gpu_check: Any, name: str, peak: float | None) -> None:
    assert gpu_check.peak_tflops(name) == peak


def test_mfu_of_numbers_worked_out_by_hand(gpu_check: Any) -> None:
    flops = gpu_check.flops_per_token(1000, 100, layers=2, dim=10, sequence=5)
    assert flops == 6 * 900 + 12 * 2 * 10 * 5
    step = gpu_check.Speed(2.0, 2**30)
    lines = "\n".join(gpu_check.large_page("NVIDIA A100", step, step, 312e12, {}))
    assert "| hpcpar | 2000.0 | 8192 | 50.0% | 1.00 |" in lines
    assert "not reached" not in lines
    slow = gpu_check.Speed(4.0, 2**31)
    assert "\n".join(gpu_check.large_page("NVIDIA A100", step, slow, 312e12, {})).count("not reached") == 3


def test_overhead_is_judged_by_the_upper_bound(overhead: Any) -> None:
    blocks = [[("A", 1.0, 2.0), ("B", 1.1, 2.0), ("B", 1.3, 2.0), ("A", 1.0, 2.0)]]
    assert overhead._ratios(blocks, 1) == pytest.approx([1.2])
    low, high = overhead.interval([0.99, 1.0, 1.0, 1.0, 1.01, 1.2])
    assert low <= 1.0 <= high
    good = overhead.Finding("ddp", 2, 10.0, 10.0, 1.0, 0.995, 1.009, 1.0, 100, 100)
    assert good.over == []
    assert good._replace(high=1.02, hpcpar_bytes=103).over == ["step time 1.020", "memory 1.030"]
