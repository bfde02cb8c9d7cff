"""Meshes of thousands of ranks, each rank as it is there, built on one CPU; the process group is a fake."""

from __future__ import annotations

import itertools

import formulas
import matrix
import pytest
import thousands
import torch
from bubbles import fake_world
from cases import rank_info
from matrix import Job

from hpcpar.mesh import Mesh, parse_mesh
from hpcpar.worker.context import make_context

LLAMA = {"dim": 256, "heads": 64, "kv_heads": 64, "hidden": 256, "layers": 6, "sequence": 64, "optimizer": "sgd"}
MESHES = [
    "dp=4096",
    "dp=16,dp_shard=256",
    "dp=16,dp_shard=32,tp=8",
    "pp=8,dp=2,dp_shard=32,tp=8",
    "pp=8,dp_shard=32,cp=2,tp=8",
    "pp=2,dp=8,dp_shard=8,cp=4,tp=8",
]
"""All of 4,096 ranks, and such that every size of the model divides: the formula knows no remainders."""


def job_of(text: str) -> Job:
    """Plan a run on a mesh with two samples for every micro-batch of every data rank."""
    mesh = parse_mesh(text, _size(text))
    batch = 2 * mesh.data_ranks * mesh.pp
    return Job(matrix._plan("hybrid", {"mesh": text}, "llama-tiny", LLAMA, mesh.world_size, batch, 2))


def _size(text: str) -> int:
    size = 1
    for part in text.split(","):
        size *= int(part.partition("=")[2])
    return size


@pytest.mark.parametrize("text", MESHES)
def test_a_rank_stands_where_it_should(text: str) -> None:
    job = job_of(text)
    mesh = job.identity.mesh
    for rank in (0, mesh.world_size // 2 + 1, mesh.world_size - 1):
        with fake_world(mesh.world_size, rank):
            context = make_context(rank_info(rank, mesh.world_size), job.identity, torch.device("cpu"))
            names = context.device_mesh.mesh_dim_names
            place = dict(zip(names, context.device_mesh.get_coordinate(), strict=True))
            assert place == {axis: at for axis, at in mesh.coordinates(rank).items() if axis in names}
            for axis, group in context.groups.items():
                members = torch.distributed.get_process_group_ranks(group)
                assert members == _line(mesh, rank, axis)


@pytest.mark.parametrize("text", MESHES)
def test_a_rank_holds_and_moves_what_the_formulas_say(text: str) -> None:
    job = job_of(text)
    for rank in (0, job.identity.mesh.world_size // 2 + 1):
        found = thousands.count(job, rank)
        assert found.parameters == formulas.held(job, rank)[0]
        assert found.moved == formulas.moved(job, rank)


def _line(mesh: Mesh, rank: int, axis: str) -> list[int]:
    """Return the ranks that differ from `rank` in one coordinate only."""
    sizes = [range(getattr(mesh, name)) for name in ("pp", "dp_replicate", "dp_shard", "cp", "tp")]
    mine = mesh.coordinates(rank)
    return [
        other
        for other, place in enumerate(itertools.product(*sizes))
        if all(at == mine[name] or name == axis for name, at in zip(mine, place, strict=True))
    ]
