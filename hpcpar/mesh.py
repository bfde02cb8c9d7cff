"""The mesh over which ranks are laid: axes, sizes, coordinates, and how people write it."""

from __future__ import annotations

import math
import re
from typing import Annotated

from msgspec import Meta, Struct

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
"""The axes of the mesh, outer to inner; `ep` is carved out of the data axes and multiplies nothing."""
Positive = Annotated[int, Meta(ge=1)]


class Mesh(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of the named axes; their product is the number of ranks."""

    pp: Positive = 1
    dp_replicate: Positive = 1
    dp_shard: Positive = 1
    cp: Positive = 1
    tp: Positive = 1
    ep: Positive = 1

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return math.prod(getattr(self, axis) for axis in AXES)

    @property
    def data_ranks(self) -> int:
        """Ranks that see different samples."""
        return self.dp_replicate * self.dp_shard

    def coordinates(self, rank: int) -> dict[str, int]:
        """Return the place of `rank` on every axis; pp is the outermost axis, tp the innermost."""
        place = {}
        for axis in reversed(AXES):
            rank, place[axis] = divmod(rank, getattr(self, axis))
        return {axis: place[axis] for axis in AXES}

    def expert_groups(self) -> tuple[list[list[int]], list[list[int]]]:
        """Return the ranks that share a set of experts between them, and those that hold the same part of it.

        Consecutive data ranks (at the same place of pp, cp and tp) share; every ep-th one holds the same part.
        """
        lines: dict[tuple[int, int, int], list[int]] = {}
        for rank in range(self.world_size):
            place = self.coordinates(rank)
            lines.setdefault((place["pp"], place["cp"], place["tp"]), []).append(rank)
        share = [line[i : i + self.ep] for line in lines.values() for i in range(0, len(line), self.ep)]
        same = [line[i :: self.ep] for line in lines.values() for i in range(self.ep)]
        return share, same

    def label(self) -> str:
        """Print the axes that are larger than one, e.g. "pp=2 dp_replicate=4"; "1" for one rank."""
        sizes = [f"{axis}={getattr(self, axis)}" for axis in (*AXES, "ep") if getattr(self, axis) > 1]
        return " ".join(sizes) or "1"


def parse_mesh(text: str, world_size: int) -> Mesh:
    """Parse "pp=2,dp=-1" for a world of `world_size` ranks; -1 fills, `dp` means dp_replicate.

    Raises:
        ValueError: unknown or repeated axis, not a size, two -1, or a product that is not the world size.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        axis, equals, number = (piece.strip() for piece in part.partition("="))
        axis = "dp_replicate" if axis == "dp" else axis
        if axis not in (*AXES, "ep"):
            raise ValueError(f"mesh '{text}': unknown axis '{axis}': one of dp, {', '.join(AXES)}, ep")
        if axis in sizes:
            raise ValueError(f"mesh '{text}': axis '{axis}' is given twice")
        if not equals or not re.fullmatch(r"-1|[1-9][0-9]{0,6}", number):
            raise ValueError(f"mesh '{text}': '{part}' must be AXIS=SIZE with a size of 1 or more, or -1 to fill")
        sizes[axis] = int(number)
    return _fill(text, sizes, world_size)


def _fill(text: str, sizes: dict[str, int], world_size: int) -> Mesh:
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1 or sizes.get("ep") == -1:
        raise ValueError(f"mesh '{text}': only one axis may be -1, and it may not be ep")
    fixed = math.prod(size for axis, size in sizes.items() if size != -1 and axis != "ep")
    if open_axes:
        if world_size % fixed:
            raise ValueError(f"mesh '{text}' does not divide {world_size} ranks: {fixed} is fixed by the other axes")
        sizes[open_axes[0]] = world_size // fixed
    elif fixed != world_size:
        raise ValueError(f"mesh '{text}' has {fixed} ranks, the run has {world_size}: use -1 for the axis that fills")
    return Mesh(**sizes)
