"""What an all-reduce went over, read from counters that are written here; and which transport is the wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcpar.records import Fabric
from hpcpar.worker.measure.fabric import MEMORY, merged, sent_bytes, transport, wrong_transport

DEV = """Inter-|   Receive  |  Transmit
 face |bytes    packets ...
    lo: 1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0
  eth0:10 1 0 0 0 0 0 0 77 1 0 0 0 0 0 0
"""


def test_sent_bytes_are_those_of_all_interfaces(tmp_path: Path) -> None:
    (tmp_path / "dev").write_text(DEV)
    counter = tmp_path / "ib" / "mlx5_0" / "ports" / "1" / "counters" / "port_xmit_data"
    counter.parent.mkdir(parents=True)
    counter.write_text("100\n")
    assert sent_bytes(tmp_path / "dev", tmp_path / "ib") == {"lo": 2000, "eth0": 77, "mlx5_0:1": 400}


@pytest.mark.parametrize("content", ["", "no table", DEV.replace("2000", "many")])
def test_counters_that_cannot_be_read_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "dev").write_text(content)
    assert "lo" not in sent_bytes(tmp_path / "dev", tmp_path / "ib")


@pytest.mark.parametrize(
    ("after", "name"),
    [
        ({"lo": 100, "eth0": 1000}, "eth0"),
        ({"lo": 700, "eth0": 650}, "lo"),
        ({"lo": 499, "eth0": 100}, MEMORY),
        ({"lo": 10, "new": 1000}, "new"),
        ({}, MEMORY),
    ],
)
def test_the_transport_is_the_interface_that_sent_most_of_the_bytes(after: dict[str, int], name: str) -> None:
    assert transport({"lo": 0, "eth0": 0}, after, 1000) == name


def fabric(backend: str, *transports: str) -> Fabric:
    return Fabric(backend=backend, num_bytes=1, time_s=1.0, bus_bytes_per_s=1.0, transports=list(transports))


def test_transports_of_all_ranks_are_named() -> None:
    assert merged([fabric("gloo", "eth0"), fabric("gloo", "lo"), fabric("gloo", "eth0")]).transports == ["eth0", "lo"]


@pytest.mark.parametrize(
    ("one", "wanted", "machines", "infiniband", "words"),
    [
        (fabric("nccl", "eth0"), "", 2, True, "wrong transport: NCCL sent over eth0, and the machine has InfiniBand"),
        (fabric("nccl", "eth0"), "", 2, False, ""),
        (fabric("nccl", "mlx5_0:1", MEMORY), "eth0", 2, True, ""),
        (
            fabric("gloo", "eth0"),
            "hsn0",
            2,
            False,
            "wrong transport: ranks sent over eth0, the cluster's profile names hsn0",
        ),
        (fabric("gloo", "hsn0"), "hsn0", 2, True, ""),
        (fabric("gloo", "lo"), "hsn0", 1, True, ""),
        (fabric("gloo", "eth0"), "", 2, True, ""),
    ],
)
def test_a_wrong_transport_is_named(one: Fabric, wanted: str, machines: int, infiniband: bool, words: str) -> None:
    assert wrong_transport(one, wanted=wanted, num_machines=machines, has_infiniband=infiniband) == words
