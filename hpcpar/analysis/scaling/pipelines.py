"""How long the ranks of a pipeline are idle, by the formula of its schedule."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from msgspec import Struct

from hpcpar.analysis.scaling.table import Cell, Table
from hpcpar.schedules import SCHEDULES, ScheduleName, bubble

TENTH = 0.1
_DEFAULT: ScheduleName = "1f1b"


class Bubble(Struct, frozen=True, kw_only=True):
    """One strategy and size whose mesh has a pipeline."""

    study: str
    workload: str
    scaling: str
    series: str
    nodes: int
    schedule: str
    ranks: int
    """p, of the pipeline."""
    stages_a_rank: int
    """v."""
    micro_batches: int
    """m."""
    share: float | None
    """Of a step; None where the schedule has no formula."""
    bound: bool
    """The share is a bound from below."""
    step_time_s: float | None
    micro_batches_for_tenth: int | None
    """The fewest micro-batches with a bubble of at most 10 %."""

    @property
    def where(self) -> str:
        """The table that it belongs to."""
        return f"{self.study}, {self.workload}, {self.scaling}"


def pipelines(tables: Sequence[Table]) -> tuple[Bubble, ...]:
    """Return a line for every size of every strategy whose mesh has a pipeline."""
    return tuple(found for table in tables for cell in table.cells if (found := bubble_of(table, cell)) is not None)


def bubble_of(table: Table, cell: Cell) -> Bubble | None:
    """Return the bubble of a cell; None where it has no pipeline, or options that make no sense."""
    options = json.loads(cell.strategy_options)
    name, p, m = options.get("schedule", _DEFAULT), axis(cell.mesh, "pp"), cell.grad_accum
    if p < 2 or not isinstance(name, str) or name not in SCHEDULES:
        return None
    chosen = options.get("virtual_stages")
    v = chosen if isinstance(chosen, int) and chosen > 0 else SCHEDULES[name].stages_per_rank
    found = bubble(name, p, m, v)
    return Bubble(
        study=table.key.study,
        workload=table.key.work,
        scaling=table.key.scaling,
        series=cell.series,
        nodes=cell.nodes,
        schedule=name,
        ranks=p,
        stages_a_rank=v,
        micro_batches=m,
        share=found.share,
        bound=found.is_bound,
        step_time_s=cell.step_time_s.value if cell.step_time_s is not None else None,
        micro_batches_for_tenth=_for_tenth(found.share, m),
    )


def axis(mesh: str, name: str) -> int:
    """Return the size of an axis out of a mesh's label, e.g. "pp=2 dp_replicate=4"; 1 where it does not say."""
    sizes = dict(part.split("=", 1) for part in mesh.split() if "=" in part)
    return int(sizes[name]) if sizes.get(name, "").isdecimal() else 1


def _for_tenth(share: float | None, m: int) -> int | None:
    """Every formula is c / (m + c) with a c of its own: it is 10 % at m = 9 c."""
    if share is None or not share < 1:
        return None
    return max(1, math.ceil((1 - TENTH) / TENTH * share * m / (1 - share) - 1e-9))
