"""Scaling tables for people (Markdown, terminal) and for machines (CSV, JSON)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.series import TableKey
from hpcpar.analysis.scaling.table import Cell, Table
from hpcpar.analysis.text.captions import facts, title, unit
from hpcpar.analysis.text.headlines import headlines
from hpcpar.analysis.text.numbers import NOTHING, estimate, memory, number, plural, span
from hpcpar.analysis.text.sheet import Sheet, one_line

ESTIMATES = ("step_time_s", "samples_per_s", "tokens_per_s", "speedup", "efficiency", "karp_flatt", "scaleup")
"""Columns with an interval: in files NAME, NAME_low and NAME_high."""


class _Column(NamedTuple):
    head: str
    show: Callable[[Cell], str]
    words: bool = False
    optional: bool = False
    """Left out where no row has anything in it."""
    narrow: bool = True
    """Shown on a terminal, which has no room for all; the files have all."""


def sheet(table: Table, *, narrow: bool = False) -> Sheet:
    """Lay a scaling table out for a reader, rounded by its intervals; `narrow` for a terminal."""
    columns = [
        column
        for column in _columns(table)
        if (column.narrow or not narrow) and (not column.optional or _filled(column, table.cells))
    ]
    return Sheet(
        [column.head for column in columns],
        [[one_line(column.show(cell)) for column in columns] for cell in table.cells],
        {place for place, column in enumerate(columns) if column.words},
    )


def _columns(table: Table) -> list[_Column]:
    word, factor = unit([cell.step_time_s for cell in table.cells])
    sample = table.rows[0].sample_unit
    speedup = "scaled speed-up" if table.key.scaling == "weak" else "speed-up"
    return [
        _Column("strategy", lambda cell: cell.series, words=True),
        _Column("nodes", lambda cell: str(cell.nodes)),
        _Column("ranks", lambda cell: str(cell.ranks)),
        _Column("mesh", lambda cell: cell.mesh, words=True, narrow=False),
        _Column("global batch", lambda cell: str(cell.global_batch)),
        _Column("micro x accum", lambda cell: f"{cell.micro_batch} x {cell.grad_accum}", narrow=False),
        _Column("runs", lambda cell: f"{cell.runs_ok}/{cell.runs_asked}"),
        _Column(f"step time ({word})", lambda cell: estimate(_scaled(cell.step_time_s, factor))),
        _Column(f"{sample}/s", lambda cell: estimate(cell.samples_per_s)),
        _Column("tokens/s", lambda cell: estimate(cell.tokens_per_s), optional=True, narrow=False),
        _Column(speedup, lambda cell: "1 (baseline)" if cell.is_baseline else estimate(cell.speedup)),
        _Column("efficiency (%)", lambda cell: "100" if cell.is_baseline else estimate(_scaled(cell.efficiency, 100))),
        _Column("Karp-Flatt (%)", lambda cell: estimate(_scaled(cell.karp_flatt, 100)), optional=True, narrow=False),
        _Column("scale-up", lambda cell: estimate(cell.scaleup), optional=True, narrow=False),
        _Column("last loss", lambda cell: span(cell.loss_last_min, cell.loss_last_max), optional=True),
        _Column("training (s)", lambda cell: number(cell.train_s), optional=True, narrow=False),
        _Column("evaluation (s)", lambda cell: number(cell.evaluation_s), optional=True, narrow=False),
        _Column(
            "evaluation loss",
            lambda cell: span(cell.evaluation_loss_min, cell.evaluation_loss_max),
            optional=True,
            narrow=False,
        ),
        _Column(
            next((cell.metric for cell in table.cells if cell.metric), "metric").replace("_", " "),
            lambda cell: span(cell.metric_min, cell.metric_max),
            optional=True,
        ),
        _Column("peak memory a rank", lambda cell: memory(cell.peak_memory_bytes), optional=True, narrow=False),
        _Column("peak device memory a rank", lambda cell: memory(cell.peak_device_bytes), optional=True, narrow=False),
        _Column("remarks", lambda cell: "; ".join(cell.flags), words=True, narrow=False),
    ]


def _filled(column: _Column, cells: Sequence[Cell]) -> bool:
    return any(column.show(cell) != NOTHING for cell in cells)


def _scaled(known: Estimate | None, factor: float) -> Estimate | None:
    return None if known is None else known.times(factor)


def remarks(table: Table) -> list[str]:
    """Return the rows' remarks as lines: a terminal shows them below the table."""
    return [
        f"{cell.series} on {plural(cell.nodes, 'node')}: {'; '.join(cell.flags)}" for cell in table.cells if cell.flags
    ]


def problem_sheet(rows: Sequence[Row]) -> Sheet:
    """Lay out the runs that have no time, each with its cause in words."""
    heads = ["study", "run", "strategy", "nodes", "repeat", "state", "cause", "what happened"]
    body = [
        [
            *(row.study, row.run, row.strategy, str(row.nodes or NOTHING), str(row.repeat or NOTHING)),
            *(row.state, row.cause, row.message),
        ]
        for row in rows
    ]
    return Sheet(heads, [[one_line(text) for text in line] for line in body], {0, 1, 2, 5, 6, 7})


def records(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return every cell as a flat record in full precision; docs/metrics.md defines the names."""
    return [{**table.key._asdict(), **flat_record(cell, ESTIMATES)} for table in tables for cell in table.cells]


def record_names() -> list[str]:
    """Return the names of a flat record in order."""
    names = list(TableKey._fields)
    for field in msgspec.structs.fields(Cell):
        names += [field.name, *([f"{field.name}_low", f"{field.name}_high"] if field.name in ESTIMATES else [])]
    return names


def flat_record(cell: msgspec.Struct, estimates: Collection[str]) -> dict[str, Any]:
    """Return the fields of a cell by name; an estimate becomes three: its value, and NAME_low and NAME_high."""
    flat: dict[str, Any] = {}
    for field in msgspec.structs.fields(type(cell)):
        value = getattr(cell, field.name)
        if field.name in estimates:
            known: Estimate | None = value
            flat[field.name] = None if known is None else known.value
            flat[f"{field.name}_low"] = None if known is None else known.low
            flat[f"{field.name}_high"] = None if known is None else known.high
        else:
            flat[field.name] = "; ".join(value) if field.name == "flags" else value
    return flat


def document(table: Table, target: float) -> dict[str, Any]:
    """Return a table with everything that must stand beside it, for JSON."""
    return {
        "title": title(table),
        "facts": facts(table),
        "baselines": [
            {"name": one.name, "nodes": one.nodes, "runs": [row.run for row in one.rows]} for one in table.references
        ],
        "headlines": headlines(table, target),
        "rows": records([table]),
    }
