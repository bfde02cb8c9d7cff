"""Peaks by the names that drivers tell; what is not in the table has none."""

import tomllib
from pathlib import Path

import pytest

from hpcpar.devices import find_device, peak_flops


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA GH200 480GB", "bf16", 989.4),
        ("NVIDIA H200", "fp8", 1978.9),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312),
        ("NVIDIA A100-SXM4-40GB", "fp32", 19.5),
    ],
)
def test_a_known_device_has_its_dense_peak(name, precision, tera):
    assert peak_flops(name, precision) == pytest.approx(tera * 1e12)


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


def test_every_accelerator_of_a_shipped_profile_is_found_by_its_name():
    """A word of the table that no longer fits would take a plan's times away without a word."""
    names = {
        node["accelerator"]
        for profile in (Path(__file__).parents[2] / "clusters").glob("*.toml")
        for node in tomllib.loads(profile.read_text()).get("node_types", {}).values()
        if node.get("accelerator")
    }
    assert len(names) >= 4
    assert [name for name in sorted(names) if find_device(name) is None] == []
