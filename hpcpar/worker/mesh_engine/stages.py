"""Cut a model's units into pipeline stages of even weight. Pure but for counting parameters on the meta device."""

from __future__ import annotations

from typing import NamedTuple

from hpcpar import composition
from hpcpar.mesh_options import EngineOptions
from hpcpar.schedules import SCHEDULES, partition, stages_of
from hpcpar.worker.context import JobContext
from hpcpar.worker.neural import Unit


class Stage(NamedTuple):
    """A part of the model that a rank has: the whole of it without a pipeline."""

    number: int
    num_stages: int
    units: tuple[Unit, ...]


def cut(units: tuple[Unit, ...], context: JobContext, options: EngineOptions) -> list[Stage]:
    """Return the stages of this rank; there are at least as many units as stages."""
    ranks = context.mesh.pp
    if ranks == 1:
        return [Stage(0, 1, units)]
    turns = composition.stages_per_rank(options)
    num_stages = ranks * turns
    bounds = partition([_num_parameters(unit) for unit in units], num_stages)
    mine = stages_of(SCHEDULES[options.schedule], context.place["pp"], ranks, turns)
    return [Stage(i, num_stages, units[bounds[i] : bounds[i + 1]]) for i in mine]


def _num_parameters(unit: Unit) -> int:
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in unit.build().parameters())
