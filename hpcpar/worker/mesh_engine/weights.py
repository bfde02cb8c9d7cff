"""Give a stage its initial weights: a function of (seed, parameter name) alone, so that every cut starts the same."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from hpcpar.worker.neural import NeuralWorkload, Unit


def materialise(units: Sequence[Unit], workload: NeuralWorkload, device: torch.device) -> nn.Sequential:
    """Build the units without memory, allocate them on the device, and fill every parameter by its full name."""
    with torch.device("meta"):
        model = nn.Sequential(OrderedDict((unit.name, unit.build()) for unit in units))
    buffers = [name for name, _ in model.named_buffers()]
    assert not buffers, f"units must not have buffers, nobody would fill them: {buffers}"
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        values = torch.empty(parameter.shape, dtype=parameter.dtype)
        workload.initialise(name, values, generator(workload.seed, name))
        with torch.no_grad():
            parameter.copy_(values)
    return model


def generator(seed: int, name: str) -> torch.Generator:
    """Return a CPU generator of random numbers for one parameter: the same numbers on every machine and device."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
