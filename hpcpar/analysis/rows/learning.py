"""What a batch is worth to learning, held against the smallest one: statistical efficiency, and Pollux's goodput."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from hpcpar.analysis.rows.reduce import Row


def with_reference(rows: Sequence[Row]) -> list[Row]:
    """Hold runs of one study and workload against the smallest global batch among them.

    Estimated: (scale + B0) / (scale + B), as in Pollux (Qiao et al., OSDI 2021). Measured: the samples that the runs
    with B0 needed to the target over those of this run.
    """
    alike: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.usable and (row.noise_scale is not None or row.samples_to_target is not None):
            alike[row.study, row.cluster, row.workload, row.workload_options].append(row)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for group in alike.values():
        reference = min(row.global_batch for row in group)
        needed = [row.samples_to_target for row in group if row.global_batch == reference and row.samples_to_target]
        for row in group:
            found[row.study, row.run] = _against(row, reference, statistics.fmean(needed) if needed else None)
    return (
        [msgspec.structs.replace(row, **found.get((row.study, row.run), {})) for row in rows] if found else list(rows)
    )


def _against(row: Row, reference: int, needed: float | None) -> dict[str, Any]:
    scale, target = row.noise_scale, row.samples_to_target
    estimate = None if scale is None else (scale + reference) / (scale + row.global_batch)
    return {
        "reference_batch": reference,
        "statistical_efficiency": needed / target if needed and target else None,
        "statistical_efficiency_estimate": estimate,
        "goodput_pollux": estimate * row.samples_per_s if estimate is not None and row.samples_per_s else None,
    }
