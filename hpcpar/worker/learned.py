"""What training changes, and therefore what a checkpoint keeps. Light at import."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Learned(NamedTuple):
    """A rank's part of a model and its optimizer. Data and random numbers are functions of step and seed: no state."""

    parameters: Mapping[str, Any]
    """By full name, UNIT.PARAMETER; plain tensors are the same on every rank that has them, others are DTensors."""
    optimizer: Any
    """The torch.optim.Optimizer of these parameters, in whatever groups."""
    buffers: Mapping[str, Any] = MappingProxyType({})
    """What units keep beside parameters (the bias of a router), by full name; the same on every rank that has it."""
