"""One rank of a mesh that is not there: its groups answer nothing, and nothing is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from hpcpar.mesh import AXES, Mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Declaration
from hpcpar.worker.neural import Unit


class _Context:
    """What the mesh engine reads of a JobContext while it prepares a unit."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.device = mesh, torch.device("cpu")
        self.groups: dict[str, Any] = {}
        self.device_mesh: Any = None
        self.ep_mesh: Any = None
        self.place = mesh.coordinates(mesh.world_size - 1)  # the last of cp attends to most


@contextlib.contextmanager
def fake(mesh: Mesh, options: EngineOptions) -> Iterator[Any]:
    """Let this process be the last rank of a mesh."""
    context = _Context(mesh)
    if mesh.world_size == 1:
        yield context
        return
    from torch import distributed
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    size = mesh.world_size
    distributed.init_process_group("fake", rank=size - 1, world_size=size, store=FakeStore())
    try:
        axes = tuple(axis for axis in AXES if getattr(mesh, axis) > 1)
        with unset_fake_temporarily():  # a mesh looks at numbers of its own
            context.device_mesh = init_device_mesh("cpu", tuple(getattr(mesh, a) for a in axes), mesh_dim_names=axes)
            context.groups = {axis: context.device_mesh.get_group(axis) for axis in axes}
            if mesh.ep > 1:
                context.groups["ep"] = context.groups["dp_replicate"]
                context.ep_mesh = DeviceMesh.from_group(context.groups["ep"], "cpu", mesh_dim_names=("ep",))
        yield context
    finally:
        distributed.destroy_process_group()


def balance(module: Any, unit: Unit, options: EngineOptions, declared: Declaration) -> None:
    """Have the router of a mixture send as many tokens to every expert: where they go is not known without numbers."""
    for path, style in unit.experts.items():
        target: Any = module.get_submodule(path)
        if style == "dispatch" and not options.capacity:
            assert declared.experts is not None
            module.set_submodule(path, _Even(declared.experts.number))
        elif style == "experts" and isinstance(target.forward, partial):  # spread over ep
            target.forward = partial(target.forward, equal=True)
        elif style == "router":
            target.begin(1.0)


class _Even(nn.Module):
    def __init__(self, experts: int) -> None:
        super().__init__()
        self._experts = experts  # in all: this rank has the weights of some

    def forward(self, x_BSD: Any, chosen_BSK: Any, experts: Any) -> Any:
        """Return what the experts make of the tokens [B, S, K, D], as the workload's own way does."""
        rows_BSKD = x_BSD.unsqueeze(2).expand(*chosen_BSK.shape, x_BSD.shape[-1])
        order_N = chosen_BSK.flatten().argsort(stable=True)
        sorted_ND = rows_BSKD.reshape(len(order_N), -1).index_select(0, order_N)
        each, more = divmod(len(order_N), self._experts)
        made_ND = experts(sorted_ND, [each + (i < more) for i in range(self._experts)])
        return made_ND.index_select(0, order_N.argsort()).view_as(rows_BSKD)
