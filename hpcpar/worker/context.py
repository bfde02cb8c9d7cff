"""What a strategy knows of the job when it builds: who this rank is, where it stands on the mesh, its groups."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from hpcpar.mesh import AXES, Mesh
from hpcpar.spec import Identity
from hpcpar.worker.measure.phases import Phases
from hpcpar.worker.rank import RankInfo


class JobContext(Struct, frozen=True, kw_only=True):
    """Made by `make_context` in the job (or by a test); read by `Strategy.build`."""

    info: RankInfo
    identity: Identity
    device: Any
    """torch.device."""
    groups: dict[str, Any]
    """The process group of every axis that is larger than one; with ep also "experts", the ranks with the same ones."""
    device_mesh: Any = None
    """torch.distributed.DeviceMesh over the axes that are larger than one; None for one rank."""
    ep_mesh: Any = None
    """The one-dimensional DeviceMesh of the ranks that share a set of experts; None without ep."""
    meeting: Any = None
    """rendezvous.Meeting, for small messages between ranks; None for one rank."""
    folder: Any = None
    """runs.RunFolder: the run's; None in a test."""
    phases: Phases = field(default_factory=lambda: Phases(lambda _name, _seconds: None))
    """Times what a strategy wants to see apart in the record."""

    @property
    def store_at(self) -> Any:
        """rendezvous.Place: where rank 0 hosts the store of this job; None for one rank."""
        return self.meeting.place if self.meeting is not None else None

    @property
    def mesh(self) -> Mesh:
        """The sizes of the axes."""
        return self.identity.mesh

    @property
    def place(self) -> dict[str, int]:
        """This rank's coordinate on every axis."""
        return self.mesh.coordinates(self.info.rank)

    @property
    def data_rank(self) -> int:
        """Which slice of the global batch this rank sees, of `mesh.data_ranks`."""
        place = self.place
        return place["dp_replicate"] * self.mesh.dp_shard + place["dp_shard"]


def make_context(info: RankInfo, identity: Identity, device: Any, **more: Any) -> JobContext:
    """Make the groups of the mesh. Every rank calls it at the same time; one rank needs no process group.

    `more` are further fields of the context.
    """
    axes = [axis for axis in AXES if getattr(identity.mesh, axis) > 1]
    if not axes or info.world_size == 1:  # a driver is one rank, and the mesh is that of its workers
        return JobContext(info=info, identity=identity, device=device, groups={}, **more)
    from torch.distributed.device_mesh import init_device_mesh

    sizes = tuple(getattr(identity.mesh, axis) for axis in axes)
    device_mesh = init_device_mesh(device.type, sizes, mesh_dim_names=tuple(axes))
    groups = {axis: device_mesh.get_group(axis) for axis in axes}
    ep_mesh = _add_experts(groups, identity.mesh, device) if identity.mesh.ep > 1 else None
    return JobContext(
        info=info,
        identity=identity,
        device=device,
        groups=groups,
        device_mesh=device_mesh,
        ep_mesh=ep_mesh,
        **more,
    )


def _add_experts(groups: dict[str, Any], mesh: Mesh, device: Any) -> Any:
    from torch import distributed
    from torch.distributed.device_mesh import DeviceMesh

    share, same = mesh.expert_groups()
    groups["ep"], _ = distributed.new_subgroups_by_enumeration(share)
    if len(same[0]) > 1:
        groups["experts"], _ = distributed.new_subgroups_by_enumeration(same)
    return DeviceMesh.from_group(groups["ep"], device.type, mesh_dim_names=("ep",))
