"""Which devices one process may use. Imports torch."""

from __future__ import annotations

import torch


def visible(home: torch.device) -> list[torch.device]:
    """Return the devices of this process, its own one first; on a CPU that is the CPU, once."""
    if home.type != "cuda":
        return [home]
    count = torch.cuda.device_count()
    first = home.index or 0
    return [torch.device("cuda", (first + i) % count) for i in range(count)]
