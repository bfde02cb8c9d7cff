"""Peaks by the names that drivers tell; what is not in the table has none."""

import pytest

from hpcpar.peaks import peak_flops


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H100 NVL", "bf16", 835),
        ("NVIDIA GH200 480GB", "bf16", 989),
        ("NVIDIA H200", "fp8", 1979),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312),
        ("NVIDIA A100-SXM4-40GB", "fp32", 19.5),
    ],
)
def test_a_known_device_has_its_dense_peak(name, precision, tera):
    assert peak_flops(name, precision) == tera * 1e12


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("NVIDIA A100-SXM4-40GB", "fp8"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16"),
        ("NVIDIA A1000", "bf16"),
        ("NVIDIA L40S", "bf16"),
        ("AMD Instinct MI250X", "bf16"),
        ("NVIDIA H200", "words"),
        ("", "bf16"),
    ],
)
def test_nothing_is_guessed(name, precision):
    assert peak_flops(name, precision) is None
