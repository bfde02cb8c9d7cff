"""What a trained model leaves beside its record: the files that a workload makes of its trained parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpcpar import storage
from hpcpar.spec import Identity
from hpcpar.worker.learned import Learned
from hpcpar.worker.team import Team

FOLDER = "adapter"


def export(
    make: Callable[[Mapping[str, Any]], Mapping[str, bytes]],
    learned: Learned,
    team: Team,
    identity: Identity,
    run: Path,
) -> None:
    """Have all ranks bring what they have trained to rank 0, which writes the files.

    Raises:
        StorageError: they cannot be written.
    """
    parameters = trained(learned, team, identity)
    if parameters is None:
        return
    storage.make_folder(run / FOLDER)
    for name, content in make(parameters).items():
        storage.write_file(run / FOLDER / name, content)


def trained(learned: Learned, team: Team, identity: Identity) -> dict[str, Any] | None:
    """Return the trained parameters, whole and on the CPU, by full name, on rank 0; None elsewhere."""
    trained_here = {name: p.detach() for name, p in learned.parameters.items() if p.requires_grad}
    mine = {name: _whole(learned.whole(name, values), team.device) for name, values in trained_here.items()}
    if team.meeting is None:
        return mine
    from torch import distributed

    # Every stage of a pipeline has its own; of the ranks of a stage, the first one speaks.
    place = identity.mesh.coordinates(team.info.rank)
    speaks = all(at == 0 for axis, at in place.items() if axis != "pp")
    everybody: list[Any] | None = [None] * team.info.world_size if team.info.rank == 0 else None
    distributed.gather_object(mine if speaks else {}, everybody, group=team.control)
    if everybody is None:
        return None
    return {name: values for one in everybody for name, values in one.items()}


def _whole(values: Any, device: Any) -> Any:
    if hasattr(values, "full_tensor"):
        values = values.to(device).full_tensor()  # what is offloaded cannot be gathered where it is
    return values.cpu()
