"""What connects the ranks: a short all-reduce at the begin of a job, its bandwidth, and what its bytes went over.

Which transport a library chose is easily asked for and not easily known: the counters of the interfaces tell what was
used. They count whatever else the machine sends meanwhile, so that only an interface that grew by most of the
all-reduce's own bytes is taken for its transport.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcpar.records import Fabric

NUM_BYTES = 4 * 2**20
ROUNDS = 5
MEMORY = "memory"
"""The transport of ranks that share a machine, or devices that are linked: no interface counts it."""
_ENOUGH = 0.5
"""Share of the bytes that an interface must have sent to be the transport."""
_IB_WORD_BYTES = 4
"""InfiniBand's data counters are in words of four bytes (IBA specification, PortXmitData)."""


def prove(device: Any, world_size: int) -> Fabric:
    """Do the all-reduce, on all ranks at once; return what this rank saw.

    Bus bandwidth is size / time x 2 (n - 1) / n, so that it does not depend on n where the links do not (NVIDIA
    nccl-tests, PERFORMANCE.md). The time is the median of five rounds after one that is not counted.
    """
    import torch
    from torch import distributed

    values = torch.zeros(NUM_BYTES // 4, device=device)
    distributed.all_reduce(values)
    _settle(device)
    before = sent_bytes()
    times_s = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        distributed.all_reduce(values)
        _settle(device)
        times_s.append(time.perf_counter() - begun)
    share = 2 * (world_size - 1) / world_size
    median_s = statistics.median(times_s)
    return Fabric(
        backend=str(distributed.get_backend()),
        num_bytes=NUM_BYTES,
        time_s=median_s,
        bus_bytes_per_s=NUM_BYTES * share / median_s,
        transports=[transport(before, sent_bytes(), int(NUM_BYTES * share * ROUNDS))],
    )


def _settle(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def transport(before: Mapping[str, int], after: Mapping[str, int], expected: int) -> str:
    """Return the interface that sent most, where it sent enough; else "memory"."""
    grown = {name: after[name] - before.get(name, 0) for name in after}
    most = max(grown, key=grown.__getitem__, default="")
    return most if most and grown[most] >= _ENOUGH * expected else MEMORY


def sent_bytes(net: Path = Path("/proc/net/dev"), infiniband: Path = Path("/sys/class/infiniband")) -> dict[str, int]:
    """Return what every interface of this machine has sent: "lo", "eth0", "mlx5_0:1", ...

    Sources: proc(5), /proc/net/dev; Linux kernel documentation, ABI/stable/sysfs-class-infiniband.
    """
    found: dict[str, int] = {}
    try:
        lines = net.read_text().splitlines()[2:]
        found |= {name.strip(): int(rest.split()[8]) for name, _, rest in (line.partition(":") for line in lines)}
    except (OSError, ValueError, IndexError):
        pass
    for counter in infiniband.glob("*/ports/*/counters/port_xmit_data"):
        try:
            name = f"{counter.parents[3].name}:{counter.parents[1].name}"
            found[name] = int(counter.read_text()) * _IB_WORD_BYTES
        except (OSError, ValueError):
            continue
    return found


def merged(everybody: list[Fabric]) -> Fabric:
    """Return rank 0's times with the transports of all ranks."""
    names = sorted({name for one in everybody for name in one.transports})
    first = everybody[0]
    return Fabric(
        backend=first.backend,
        num_bytes=first.num_bytes,
        time_s=first.time_s,
        bus_bytes_per_s=first.bus_bytes_per_s,
        transports=names,
    )


def wrong_transport(fabric: Fabric, *, wanted: str, num_machines: int, has_infiniband: bool) -> str:
    """Say that ranks on several machines did not speak over what they should; "" where nothing is wrong.

    Args:
        fabric: of all ranks.
        wanted: the interface that the cluster's profile names; "" where it names none.
        num_machines: physical machines of the run.
        has_infiniband: rank 0's machine has InfiniBand devices, which NCCL prefers where it can.
    """
    if num_machines < 2:
        return ""
    plain = [name for name in fabric.transports if ":" not in name and name != MEMORY]
    if fabric.backend == "nccl" and has_infiniband and plain:
        return f"wrong transport: NCCL sent over {', '.join(plain)}, and the machine has InfiniBand"
    if fabric.backend == "gloo" and wanted and any(name != wanted for name in plain):
        return f"wrong transport: ranks sent over {', '.join(plain)}, the cluster's profile names {wanted}"
    return ""
