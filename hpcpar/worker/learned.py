"""What training changes, and therefore what a checkpoint keeps. Light at import."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Learned(NamedTuple):
    """A rank's part of a model and its optimizer. Data and random numbers are functions of step and seed: no state."""

    parameters: Mapping[str, Any]
    """By full name, UNIT.PARAMETER; plain tensors that are no slices are the same on every rank that has them."""
    optimizer: Any
    """The torch.optim.Optimizer of these parameters, in whatever groups."""
    buffers: Mapping[str, Any] = MappingProxyType({})
    """What units keep beside parameters (the bias of a router), by full name; the same on every rank that has it."""
    splits: Mapping[str, tuple[Any, Any]] = MappingProxyType({})
    """Of parameters that are plain tensors here, but slices of whole ones: the DeviceMesh and the placements."""

    def whole(self, name: str, tensor: Any) -> Any:
        """Return a tensor of the kind of a parameter as what it is part of; it shares its memory."""
        if name not in self.splits:
            return tensor
        from torch.distributed.tensor import DTensor  # 0.3 s: only where something is split

        mesh, placements = self.splits[name]
        return DTensor.from_local(tensor, mesh, placements, run_check=False)
