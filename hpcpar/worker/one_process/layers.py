"""Consecutive layers on different devices of one process, one batch at a time. Imports torch.

While one device computes, the others wait: this is a pipeline with one micro-batch, and the measure of what real
pipelining (strategy pp) gains. Source of the scheme: Huang et al. 2019, GPipe (arXiv:1811.06965), figure 2b.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from msgspec.structs import replace
from torch import nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Trainer
from hpcpar.schedules import partition
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import weights
from hpcpar.worker.mesh_engine.balance import Balance
from hpcpar.worker.mesh_engine.clip import Clipper
from hpcpar.worker.mesh_engine.finite import Watch
from hpcpar.worker.mesh_engine.replica import ReplicaTrainer
from hpcpar.worker.mesh_engine.update import Update
from hpcpar.worker.neural import NeuralWorkload
from hpcpar.worker.one_process.devices import visible

CPU_PARTS = 2
"""Into how many parts a model is cut on a CPU, where nothing says how many devices there are."""


class Layerwise(nn.Module):
    """Parts of a model, each on its device; activations travel forward, their gradients back."""

    def __init__(self, parts: Sequence[nn.Module], devices: Sequence[torch.device], home: torch.device) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self._devices, self._home = tuple(devices), home

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the output of the last part on the home device, where the targets are."""
        for part, device in zip(self.parts, self._devices, strict=True):
            values = part(values.to(device))
        return values.to(self._home)


class LayerwiseTrainer(ReplicaTrainer):
    """One replica, whose layers lie on several devices."""

    def __init__(self, context: JobContext, workload: NeuralWorkload, model: Layerwise, notes: Sequence[str]) -> None:
        balance = Balance(context, workload, model.parts)
        clipper = Clipper(context, workload, model)
        watch = Watch(context, workload)
        optimizer = workload.optimizer(weights.trained(model))
        update = Update(context, model, optimizer, clip=clipper, watch=watch, balance=balance)
        super().__init__(context, workload, model, update, EngineOptions())
        self._notes = tuple(notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Say which layers are where, and what a replica has to say."""
        return (*self._notes, *super().notes)


def build(context: JobContext, workload: NeuralWorkload, cuts: Sequence[int]) -> Trainer:
    """Put the parts of the model on the devices of this process.

    Raises:
        ValueError: a cut lies beyond the model, or there are more parts than devices.
    """
    devices = visible(context.device)
    bounds = _bounds(workload, cuts, devices)
    homes = _assign(devices, len(bounds) - 1)
    parts = [
        weights.materialise(workload.units[begin:end], workload, replace(context, device=device), EngineOptions())
        for begin, end, device in zip(bounds, bounds[1:], homes, strict=False)
    ]
    model = Layerwise(parts, homes, context.device)
    notes = [_note(workload, bounds, homes)]
    return LayerwiseTrainer(context, workload, model, notes)


def _bounds(workload: NeuralWorkload, cuts: Sequence[int], devices: Sequence[torch.device]) -> tuple[int, ...]:
    num_units = len(workload.units)
    if cuts and cuts[-1] >= num_units:
        raise ValueError(
            f"cuts: {cuts[-1]} lies beyond the model: its {num_units} units are cut before 1 to {num_units - 1}"
        )
    if cuts:
        return (0, *cuts, num_units)
    parts = CPU_PARTS if devices[0].type == "cpu" else len(devices)
    with torch.device("meta"):
        sizes = [sum(parameter.numel() for parameter in unit.build().parameters()) for unit in workload.units]
    return partition(sizes, min(parts, num_units))


def _assign(devices: Sequence[torch.device], parts: int) -> list[torch.device]:
    if devices[0].type == "cpu":
        return [devices[0]] * parts
    if parts > len(devices):
        raise ValueError(f"cuts make {parts} parts, but this process sees {len(devices)} devices: choose fewer cuts")
    return list(devices[:parts])


def _note(workload: NeuralWorkload, bounds: Sequence[int], homes: Sequence[torch.device]) -> str:
    names = [unit.name for unit in workload.units]
    spans = zip(bounds, bounds[1:], homes, strict=False)
    places = "; ".join(f"{names[begin]} to {names[end - 1]} on {device}" for begin, end, device in spans)
    if len(set(homes)) == 1:
        same = f"all parts are on the same device ({homes[0]}), so nothing was spread"
        return f"layerwise: {same}: {places}"
    return f"layerwise: {places}"
