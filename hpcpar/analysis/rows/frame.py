"""Rows as a tidy DataFrame: one row a run, failed and missing runs included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.rows.usage import CONVENTIONS, HELD

if TYPE_CHECKING:
    import pandas as pd

PHASES = ("queue", "start", "build", "train", "finish", "idle")
"""Phases that every whole run has; further ones get a column of their own."""
_SIZES = (
    "nodes",
    "ranks",
    "ranks_per_node",
    "cpus_per_rank",
    "gpus_per_node",
    "repeat",
    "seed",
    "global_batch",
    "micro_batch",
    "grad_accum",
    "steps_planned",
    "warmup_steps",
)
_RESULTS = (
    *CONVENTIONS,
    "model_flops_per_s",
    "fabric_bus_bytes_per_s",
    "load_balance",
    "cpu_utilisation",
    "device_utilisation",
    "clock_mhz",
    "pipeline_bubble",
    "samples_per_s_per_rank",
    "tokens_per_s_per_rank",
    "data_wait_share",
    "overlap",
    "compute_share",
    "noise_scale",
    "noise_scale_error",
    "statistical_efficiency",
    "statistical_efficiency_estimate",
    "goodput_pollux",
    *(f"{whose}_{what}" for whose in ("device", "machine") for what in ("energy_j", "power_w")),
    "effective_time_ratio",
    "goodput_updates_per_s",
    "loss_last",
    "evaluation_loss",
    "metric_value",
    "step_time_trend",
    "samples_to_target",
    "measured_node_h",
    "accounted_energy_j",
    "billed_node_h",
    "billed_device_h",
    "billed_units",
)
_COUNTS = (
    "peak_memory_bytes",
    "peak_device_bytes",
    "sum_memory_bytes",
    "sum_device_bytes",
    "peak_reserved_bytes",
    *(f"memory_{what}_bytes" for what in HELD),
    "accounted_nodes",
    "accounted_peak_bytes",
    "usable_cpus",
    "warmup_cut",
    "reference_batch",
)


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Return one row a run, in the order given; docs/metrics.md defines the columns. Unknown is NA, never 0."""
    import pandas as pd

    phases = [*PHASES, *sorted({name for row in rows for name in row.phases} - set(PHASES))]
    table = pd.DataFrame([_flat(row, phases) for row in rows], columns=columns(phases))
    for name in (*_SIZES, *_COUNTS):
        table[name] = table[name].astype("Int64")
    floats = [name for name in table.columns if name.endswith("_s") or name in _RESULTS]
    return table.astype(dict.fromkeys(floats, "float64"))


def columns(phases: Sequence[str] = PHASES) -> list[str]:
    """Return the names of the columns in order."""
    fields = [field.name for field in msgspec.structs.fields(Row)]
    place = fields.index("phases")
    fields[place : place + 1] = ["wall_s", "total_s", *(f"phase_{name}_s" for name in phases)]
    fields.insert(fields.index("machines"), "num_machines")
    return fields


def _flat(row: Row, phases: Sequence[str]) -> dict[str, Any]:
    flat: dict[str, Any] = {field.name: getattr(row, field.name) for field in msgspec.structs.fields(Row)}
    for name in phases:
        flat[f"phase_{name}_s"] = row.phases.get(name)
    if not row.nodes:  # spec.json could not be read: its sizes are unknown, not zero
        flat.update(dict.fromkeys(_SIZES))
    flat["wall_s"], flat["total_s"] = row.wall_s, row.total_s
    flat["num_machines"] = len(row.machines)
    flat["machines"] = " ".join(row.machines)
    flat["notes"] = "; ".join(row.notes)
    return flat
