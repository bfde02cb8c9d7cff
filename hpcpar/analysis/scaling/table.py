"""Rows to scaling tables: times, throughput, speed-up and efficiency with intervals, and what is wrong with each row.

Formulae (docs/metrics.md has them all, with their sources): r = ranks / baseline ranks.
Strong scaling (fixed global batch): speed-up S = T0 / T. Weak scaling (fixed global batch over ranks): scaled speed-up
S = X / X0. Efficiency = S / r.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from hpcpar.analysis.judging import intervals
from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling import baseline as baselines
from hpcpar.analysis.scaling.baseline import Reference
from hpcpar.analysis.scaling.flags import DECLARED, STILL_OPEN, asked, of_comparison, of_runs, of_times
from hpcpar.analysis.scaling.series import Series, TableKey, by_table, load, split


class Cell(Struct, frozen=True, kw_only=True):
    """One row of a scaling table: a series at one size."""

    series: str
    strategy: str
    strategy_options: str
    mesh: str
    nodes: int
    ranks: int
    global_batch: int
    micro_batch: int
    grad_accum: int
    steps: int
    warmup_steps: int
    runs_ok: int
    runs_failed: int
    runs_open: int
    """Planned, submitted, queued or running."""
    runs_asked: int
    step_time_s: Estimate | None = None
    samples_per_s: Estimate | None = None
    tokens_per_s: Estimate | None = None
    baseline: str = ""
    is_baseline: bool = False
    speedup: Estimate | None = None
    efficiency: Estimate | None = None
    karp_flatt: Estimate | None = None
    """Experimentally determined serial fraction; strong scaling, more ranks than the baseline."""
    scaleup: Estimate | None = None
    """T0 / T at a constant load a rank; weak scaling."""
    loss_last_min: float | None = None
    loss_last_max: float | None = None
    train_s: float | None = None
    evaluation_s: float | None = None
    evaluation_loss_min: float | None = None
    evaluation_loss_max: float | None = None
    metric: str = ""
    metric_min: float | None = None
    metric_max: float | None = None
    peak_memory_bytes: int | None = None
    peak_device_bytes: int | None = None
    oversubscribed: bool = False
    evidence: bool = False
    """True: a headline, a law or a verdict may be drawn from it."""
    flags: tuple[str, ...] = ()


class Table(Struct, frozen=True, kw_only=True):
    """A scaling table: what its rows share, the rows, and the runs behind it."""

    key: TableKey
    cells: tuple[Cell, ...]
    references: tuple[Reference, ...]
    """Every baseline that the table uses."""
    rows: tuple[Row, ...]

    def series(self) -> dict[str, list[Cell]]:
        """Return the cells of each series, in the order of the table."""
        grouped: dict[str, list[Cell]] = {}
        for cell in self.cells:
            grouped.setdefault(cell.series, []).append(cell)
        return grouped


def build(rows: Sequence[Row], baseline: str = "") -> tuple[Table, ...]:
    """Build the scaling tables of all rows.

    Args:
        rows: sorted as `gather` does.
        baseline: "STRATEGY@NODES" for one common baseline a table; "" for each series' own smallest size.

    Raises:
        InputError: the baseline is not of that form, was never planned, or means several series.
    """
    choice = baselines.parse(baseline)
    split_tables = [(key, members, split(members)) for key, members in by_table(rows).items()]
    baselines.check(choice, [series for _, _, series in split_tables])
    return tuple(_table(key, members, series, choice) for key, members, series in split_tables)


def _table(key: TableKey, rows: Sequence[Row], table: list[Series], choice: baselines.Choice | None) -> Table:
    cells: list[Cell] = []
    references: dict[str, Reference] = {}
    for series in table:
        reference = baselines.reference(series, table, choice) if key.scaling in DECLARED else None
        if reference is not None:
            references[reference.name] = reference
        cells += [_cell(series, nodes, reference) for nodes in series.rows]
    return Table(key=key, cells=tuple(cells), references=tuple(references.values()), rows=tuple(rows))


def _cell(series: Series, nodes: int, reference: Reference | None) -> Cell:
    rows, usable = series.rows[nodes], series.usable(nodes)
    first = rows[0]
    is_baseline = reference is not None and (reference.label, reference.nodes) == (series.label, nodes)
    speedup = Estimate(1.0) if is_baseline else _speedup(usable, reference)
    growth = first.ranks / reference.rows[0].ranks if reference is not None else 1.0
    losses = [row.loss_last for row in usable if row.loss_last is not None]
    still_open = sum(row.state in STILL_OPEN for row in rows)
    return Cell(
        series=series.label,
        **{name: getattr(first, name) for name in _SHARED},
        steps=first.steps_planned,
        runs_ok=len(usable),
        runs_failed=len(rows) - len(usable) - still_open,
        runs_open=still_open,
        runs_asked=asked(rows),
        step_time_s=_mean([row.step_time_s for row in usable]),
        samples_per_s=_mean([row.samples_per_s for row in usable]),
        tokens_per_s=_mean([row.tokens_per_s for row in usable]),
        baseline=reference.name if reference is not None else "",
        is_baseline=is_baseline,
        speedup=speedup,
        efficiency=None if speedup is None else speedup.times(1 / growth),
        karp_flatt=karp_flatt(speedup, growth) if first.scaling == "strong" and not is_baseline else None,
        scaleup=Estimate(1.0) if is_baseline and first.scaling == "weak" else _scaleup(usable, reference),
        loss_last_min=min(losses, default=None),
        loss_last_max=max(losses, default=None),
        train_s=_average([row.phases.get("train") for row in usable]),
        evaluation_s=_average([row.phases.get("evaluate") for row in usable]),
        **_span("evaluation_loss", [row.evaluation_loss for row in usable]),
        metric=next((row.metric for row in usable if row.metric), ""),
        **_span("metric", [row.metric_value for row in usable]),
        peak_memory_bytes=_largest([row.peak_memory_bytes for row in usable]),
        peak_device_bytes=_largest([row.peak_device_bytes for row in usable]),
        oversubscribed=any(row.oversubscribed for row in usable),
        evidence=speedup is not None and not _disturbed(usable, reference),
        flags=(
            *of_runs(rows, usable),
            *of_times(usable),
            *of_comparison(first, reference, is_baseline, speedup),
        ),
    )


_SHARED = (
    "strategy",
    "strategy_options",
    "mesh",
    "nodes",
    "ranks",
    "global_batch",
    "micro_batch",
    "grad_accum",
    "warmup_steps",
)


def _speedup(usable: Sequence[Row], reference: Reference | None) -> Estimate | None:
    """Return S, or None where it would mean nothing: no baseline, no time, or other work."""
    if reference is None or not usable:
        return None
    if usable[0].scaling == "strong":
        if load(usable[0]) != load(reference.rows[0]):
            return None
        return intervals.ratio(_values(reference.rows, "step_time_s"), _values(usable, "step_time_s"))
    if any(row.samples_per_s is None for row in (*usable, *reference.rows)):
        return None  # whole programs whose number of updates nobody knows
    return intervals.ratio(_values(usable, "samples_per_s"), _values(reference.rows, "samples_per_s"))


def karp_flatt(speedup: Estimate | None, growth: float) -> Estimate | None:
    """Return e = (1 / S - 1 / r) / (1 - 1 / r) (A. Karp, H. Flatt, CACM 33(5), 1990); None for r <= 1.

    Constant over r: a serial part. Rising: an overhead that grows. The interval is that of S, turned round.
    """
    if speedup is None or growth <= 1:
        return None

    def fraction(s: float | None) -> float | None:
        return None if s is None else float(f"{(1 / s - 1 / growth) / (1 - 1 / growth):.13g}")

    value = fraction(speedup.value)
    return None if value is None else Estimate(value, fraction(speedup.high), fraction(speedup.low))


def _scaleup(usable: Sequence[Row], reference: Reference | None) -> Estimate | None:
    if reference is None or not usable or usable[0].scaling != "weak" or load(usable[0]) != load(reference.rows[0]):
        return None
    return intervals.ratio(_values(reference.rows, "step_time_s"), _values(usable, "step_time_s"))


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [getattr(row, name) for row in rows]


def _mean(values: Sequence[float | None]) -> Estimate | None:
    known = [value for value in values if value is not None]
    return intervals.mean(known) if known else None


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _span(name: str, values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {f"{name}_min": min(known, default=None), f"{name}_max": max(known, default=None)}


def _largest(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _disturbed(usable: Sequence[Row], reference: Reference | None) -> bool:
    """Say whether something else than the strategy may have set the times of these runs or of their baseline."""
    behind = [*usable, *(reference.rows if reference is not None else ())]
    return any(row.oversubscribed or row.shared_with for row in behind) or (
        reference is not None and load(usable[0]) != load(reference.rows[0])
    )
