"""Laws, crossovers and size-up for people and for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.scaling.laws import Law
from hpcpar.analysis.scaling.series import TableKey
from hpcpar.analysis.scaling.sizeup import SizeUp
from hpcpar.analysis.text.captions import unit
from hpcpar.analysis.text.numbers import NOTHING, estimate, number
from hpcpar.analysis.text.sheet import Sheet, one_line

_ESTIMATES = ("step_time_s", "sizeup", "time_per_work")
_PERCENT = frozenset({"serial_share", "contention", "coherency"})
_WORDS = {
    "serial_share": "serial share",
    "contention": "contention",
    "coherency": "coherency",
    "throughput_at_1": "throughput at r = 1",
    "nodes_at_target": "nodes at the efficiency target",
    "nodes_at_peak": "nodes at the peak",
    "samples_min": "samples at a small batch",
    "critical_batch": "critical batch",
}


def law_sheet(laws: Sequence[Law]) -> Sheet:
    """Lay the laws out: parameters with intervals, residuals, or why there is no fit."""
    heads = ["series", "law", "sizes", "runs", "parameters", "off by, size by size (%)", "remarks"]
    body = [
        [
            *(law.series, law.law, str(law.sizes), str(law.runs)),
            *(_parameters(law), _residuals(law), "; ".join(filter(None, (law.reason, *law.notes)))),
        ]
        for law in laws
    ]
    return Sheet(heads, [[one_line(text) for text in line] for line in body], {0, 1, 4, 5, 6})


def _parameters(law: Law) -> str:
    return "; ".join(f"{_WORDS[name]} {_parameter(name, known)}" for name, known in law.parameters.items()) or NOTHING


def _parameter(name: str, known: Estimate) -> str:
    if not math.isfinite(known.value):
        return f"not limited by these runs (at least {number(known.low)})"
    if known.high is not None and not math.isfinite(known.high):
        return f"{number(known.value)}, at least {number(known.low)}"
    return f"{estimate(known.times(100))} %" if name in _PERCENT else estimate(known)


def _residuals(law: Law) -> str:
    return ", ".join(f"{round(100 * off, 1) + 0.0:+.1f}" for _, off in law.residuals) or NOTHING


def law_facts(laws: Sequence[Law]) -> list[str]:
    """Return what a reader needs beside laws."""
    if all(law.reason for law in laws):
        return []
    return [
        "r = 1 is each series' smallest size; a serial share is relative to it, not to one core.",
        "Intervals: 95 %, from resampled runs. A law is followed to twice the largest measured size, and no further.",
        "Off by: measured over fitted. A pattern (signs in blocks) says that the law is the wrong one, however small.",
    ]


def law_records(laws: Sequence[Law]) -> list[dict[str, Any]]:
    """Return a flat record for each parameter of each law, and one for each law that was not fitted."""
    records = []
    for law in laws:
        shared = {**law.key._asdict(), **{name: getattr(law, name) for name in _SHARED}}
        shared["notes"] = "; ".join(law.notes)
        none: list[tuple[str, Estimate | None]] = [("", None)]
        for name, known in law.parameters.items() or none:
            values = (None, None, None) if known is None else (known.value, known.low, known.high)
            records.append({**shared, "parameter": name, **dict(zip(("value", "low", "high"), values, strict=True))})
    return records


_SHARED = ("series", "law", "sizes", "runs", "smallest", "largest", "misfit_p", "misfit", "reason")


def law_names() -> list[str]:
    """Return the names of a law's record in order."""
    return [*TableKey._fields, *_SHARED, "notes", "parameter", "value", "low", "high"]


def sizeup_names() -> list[str]:
    """Return the names of a size-up record in order."""
    ends = ("", "_low", "_high")
    fields = (field.name for field in msgspec.structs.fields(SizeUp))
    return [name + end for name in fields for end in (ends if name in _ESTIMATES else ("",))]


def sizeup_sheet(rows: Sequence[SizeUp]) -> Sheet:
    """Lay size-up out."""
    word, factor = unit([row.step_time_s for row in rows])
    heads = [
        "workload",
        "strategy",
        "nodes",
        "global batch",
        "m",
        "runs",
        f"step time ({word})",
        "size-up",
        "size-up / m",
    ]
    body = [
        [
            *(row.workload, row.strategy, str(row.nodes), str(row.global_batch), f"{row.factor:g}", str(row.runs)),
            estimate(row.step_time_s.times(factor)),
            "1 (baseline)" if row.factor == 1 and row.sizeup else estimate(row.sizeup),
            estimate(row.time_per_work),
            "; ".join(row.flags),
        ]
        for row in rows
    ]
    heads.append("remarks")
    return Sheet(heads, [[one_line(text) for text in line] for line in body], {0, 1, 9})


def sizeup_records(rows: Sequence[SizeUp]) -> list[dict[str, Any]]:
    """Return every row of the size-up tables as a flat record."""
    return [_flat(row) for row in rows]


def _flat(row: SizeUp) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in msgspec.structs.fields(SizeUp):
        value = getattr(row, field.name)
        if field.name in _ESTIMATES:
            ends = (None, None, None) if value is None else (value.value, value.low, value.high)
            flat |= dict(zip((field.name, f"{field.name}_low", f"{field.name}_high"), ends, strict=True))
        else:
            flat[field.name] = "; ".join(value) if field.name == "flags" else value
    return flat
