"""Which device this rank computes on. Imports torch."""

from __future__ import annotations

import torch

from hpcpar.errors import RunError
from hpcpar.records import Cause
from hpcpar.spec import RunSpec
from hpcpar.worker.rank import RankInfo


def choose_device(spec: RunSpec, info: RankInfo) -> torch.device:
    """Return this rank's device and make it the current one; set the number of CPU threads.

    Raises:
        RunError: the run asked for GPUs, and this rank has none.
    """
    torch.set_num_threads(info.cpus_asked)
    if spec.gpus_per_node == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        reason = "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no device"
        raise RunError(
            Cause.LAUNCH, f"the run asked for {spec.gpus_per_node} GPUs a node, but {info.node_name} has none: {reason}"
        )
    device = torch.device("cuda", device_index(spec, info, torch.cuda.device_count()))
    torch.cuda.set_device(device)
    return device


def device_index(spec: RunSpec, info: RankInfo, visible: int) -> int:
    """Return the index, among the `visible` devices, of the one that this rank uses.

    A rank that sees one device only was given it by the scheduler. Otherwise the profile's order counts.

    Raises:
        RunError: there are more ranks on the node than devices.
    """
    if visible == 1 and spec.gpus_per_node > 1:
        return 0
    order = spec.device_order
    index = order[info.local_rank] if info.local_rank < len(order) else info.local_rank
    if index >= visible:
        what = f"local rank {info.local_rank} on {info.node_name} needs device {index}, but sees only {visible} devices"
        raise RunError(Cause.LAUNCH, what)
    return index
