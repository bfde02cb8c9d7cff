"""The process groups of a run: one for the data of the strategies, one on the CPU for the records. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from hpcpar.spec import RunSpec
from hpcpar.worker.rank import RankInfo
from hpcpar.worker.rendezvous import Meeting, collective_timeout


def join(spec: RunSpec, info: RankInfo, meeting: Meeting, device: torch.device) -> Any:
    """Make the default process group; return the control group, which never touches a device's stream.

    Raises:
        RuntimeError: the ranks cannot connect to each other (a cause network).
    """
    timeout = collective_timeout(spec)
    distributed.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore("group", meeting.store),
        rank=info.rank,
        world_size=info.world_size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    if device.type == "cuda":
        return distributed.new_group(backend="gloo", timeout=timeout)
    return distributed.group.WORLD


def leave() -> None:
    """Give the process groups back."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
