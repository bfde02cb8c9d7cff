"""Scaling laws of one series, with intervals from runs; or the reason why there is none.

r = ranks / ranks of the smallest size, T = step time, X = throughput, B = global batch. docs/laws.md has formulae,
sources and the rules F1 to F7 by which a fit is made or refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from hpcpar.analysis.judging.comparability import disturbed
from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.judging.metrics import METRICS, values
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.fitting import MISFIT, Fit, Points, fit
from hpcpar.analysis.scaling.flags import DECLARED
from hpcpar.analysis.scaling.series import Series, TableKey, by_table, split
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text.numbers import plural

REACH = 2.0
"""No law is followed beyond this times the largest measured size."""


class Law(Struct, frozen=True, kw_only=True):
    """A law for one series: its parameters, or the reason why there are none."""

    key: TableKey
    series: str
    law: str
    sizes: int
    """Different sizes (ranks, or global batches) with evidence."""
    runs: int
    smallest: float
    """Ranks at r = 1; for samples to a target the smallest global batch."""
    largest: float
    parameters: dict[str, Estimate] = {}
    residuals: tuple[tuple[float, float], ...] = ()
    """(r, or for samples to a target the global batch; measured over fitted, minus 1)."""
    misfit_p: float | None = None
    misfit: bool = False
    """The law does not describe the measurements."""
    reason: str = ""
    """Why it was not fitted; "" where it was."""
    notes: tuple[str, ...] = ()


class _Form(NamedTuple):
    """A law as a sum of terms, and what its coefficients mean."""

    name: str
    least_sizes: int
    terms: Callable[[Any], Any]
    parameters: dict[str, Callable[[Any], Any]]
    largest: Callable[[Any, float], Any] | None = None
    """(coefficients, wanted efficiency) -> the r up to which the law promises something; see `promise`."""
    promise: str = ""
    """The name of that r's parameter, in nodes."""


def _columns(*columns: Any) -> Any:
    import numpy as np

    return np.stack(columns, axis=1)


def _serial_share(c: Any) -> Any:
    return c[0] / (c[0] + c[1])


def _weak_limit(share: Any, target: float) -> Any:
    """Return the r at which E = (s + (1 - s) r) / r falls to the target; infinite where it never does."""
    import numpy as np

    return np.where(target > 1 - share, share / np.maximum(target - (1 - share), 1e-300), np.inf)


def _peak(contention: Any, coherency: Any) -> Any:
    """Return the r of the largest throughput, sqrt((1 - contention) / coherency)."""
    import numpy as np

    return np.sqrt(np.maximum(1 - contention, 0) / coherency)


AMDAHL = _Form(
    "Amdahl",
    4,
    lambda r: _columns(r**0, 1 / r),  # T = a + b / r
    {"serial_share": _serial_share},
    lambda c, target: 1 + (1 / target - 1) / _serial_share(c),  # E = 1 / (1 + s (r - 1))
    "nodes_at_target",
)
GUSTAFSON = _Form(
    "Gustafson",
    4,
    lambda r: _columns(r**0, r),  # X = a + b r, i.e. X / X0 = s + (1 - s) r
    {"serial_share": _serial_share},
    lambda c, target: _weak_limit(_serial_share(c), target),
    "nodes_at_target",
)
USL = _Form(
    "USL",
    6,
    lambda r: _columns(r**0, r - 1, r * (r - 1)),  # r / X = (1 + alpha (r - 1) + beta r (r - 1)) / gamma
    {
        "contention": lambda c: c[1] / c[0],
        "coherency": lambda c: c[2] / c[0],
        "throughput_at_1": lambda c: 1 / c[0],
    },
    lambda c, _: _peak(c[1] / c[0], c[2] / c[0]),
    "nodes_at_peak",
)
TARGET = _Form(
    "samples to target",
    4,
    lambda b: _columns(b**0, b),  # E = E_min + E_min / B_crit B
    {"samples_min": lambda c: c[0], "critical_batch": lambda c: c[0] / c[1]},
)


def laws(tables: Sequence[Table], target: float) -> tuple[Law, ...]:
    """Fit the laws of every series with a declared scaling, and samples to the target where a target loss was given.

    Args:
        tables: scaling tables.
        target: the efficiency for which the largest size is derived.
    """
    found: list[Law] = []
    for table in tables:
        if table.key.scaling in DECLARED:
            for series in split(table.rows):
                found += _of_series(table, series, target)
    return (*found, *_to_target([row for table in tables for row in table.rows]))


def _of_series(table: Table, series: Series, target: float) -> Iterator[Law]:
    rows = _sound(table, series)
    nodes_at_1, first = min(rows, default=1), next(iter(rows.values()), None)
    smallest = first[0].ranks if first else 1
    places = tuple(runs[0].ranks / smallest for runs in rows.values())
    times, rates = (
        tuple(tuple(getattr(row, name) for row in runs) for runs in rows.values())
        for name in ("step_time_s", "samples_per_s")
    )
    inverse = tuple(tuple(r / x for x in runs) for r, runs in zip(places, rates, strict=True))
    base = Law(
        key=table.key,
        series=series.label,
        law="",
        sizes=len(places),
        runs=sum(map(len, times)),
        smallest=smallest,
        largest=smallest * max(places, default=1),
    )
    strong = table.key.scaling == "strong"
    for form, values_ in ((AMDAHL, times) if strong else (GUSTAFSON, rates), (USL, inverse)):
        points = Points(places, values_)
        reason = why_not(points, form.least_sizes)
        law = replace(base, law=form.name, reason=reason)
        yield law if reason else _with_promise(*_fitted(law, form, points), form, target, nodes_at_1)


def _sound(table: Table, series: Series) -> dict[int, list[Row]]:
    """Return the runs of the sizes that are evidence; without a throughput there is no law."""
    sizes = [cell.nodes for cell in table.cells if cell.series == series.label and (cell.evidence or cell.is_baseline)]
    usable = {nodes: series.usable(nodes) for nodes in sizes}
    known = {nodes: runs for nodes, runs in usable.items() if all(row.samples_per_s is not None for row in runs)}
    return {nodes: runs for nodes, runs in known.items() if runs and not disturbed(runs)}


def why_not(points: Points, least_sizes: int) -> str:
    """Say why a law is not fitted (rules F1, F3, F5); "" where it is."""
    sizes = len(points.places)
    if sizes < least_sizes:
        return f"not enough points: {plural(sizes, 'size')} with evidence, {least_sizes} are the least"
    if points.runs <= sizes:
        return "one piece of evidence a size gives no interval, and without one there is no fit"
    return ""


def _fitted(law: Law, form: _Form, points: Points) -> tuple[Law, Fit]:
    found = fit(points, form.terms)
    worst = max(abs(x) for x in found.residuals)
    wrong = found.misfit_p is not None and found.misfit_p < MISFIT
    fitted = replace(
        law,
        parameters={name: found.derive(formula) for name, formula in form.parameters.items()},
        residuals=tuple(zip(points.places, found.residuals, strict=True)),
        misfit_p=found.misfit_p,
        misfit=wrong,
        notes=(f"it does not describe these measurements (up to {worst:.1%} off): do not use it",) if wrong else (),
    )
    return fitted, found


def _with_promise(law: Law, found: Fit, form: _Form, target: float, nodes_at_1: int) -> Law:
    """Add up to which size the law promises something, inside its reach (rule F4)."""
    import numpy as np

    if form.largest is None or law.misfit:
        return law
    largest, reach = form.largest, REACH * law.largest / law.smallest
    promised = found.derive(lambda c: np.minimum(largest(c, target), reach))
    if promised.value >= reach:
        note = f"{form.promise} is beyond {REACH:g} times the largest measured size, where the law is not followed"
        return replace(law, notes=(*law.notes, note))
    parameters = {**law.parameters, form.promise: promised.times(nodes_at_1)}
    capped = (f"the upper bound of {form.promise} is where the law's reach ends",) if promised.high == reach else ()
    return replace(law, parameters=parameters, notes=(*law.notes, *capped))


def _to_target(rows: Sequence[Row]) -> Iterator[Law]:
    """Fit samples to the target over global batches: E = E_min (1 + B / B_crit).

    Sizes do not matter for it, seeds do: they are what is repeated.
    """
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.usable:
            groups[row.cluster, row.node_type, row.workload, row.workload_options, *_strategy(row)].append(row)
    for runs in groups.values():
        if any(row.samples_to_target is not None for row in runs):
            yield _of_batches(runs)


def _strategy(row: Row) -> tuple[str, str]:
    return row.strategy, row.strategy_options


def _of_batches(runs: Sequence[Row]) -> Law:
    by_batch: dict[int, list[Row]] = defaultdict(list)
    for row in runs:
        by_batch[row.global_batch].append(row)
    metric = next(metric for metric in METRICS if metric.name == "samples_to_target")
    reached = {batch: found for batch, rows in sorted(by_batch.items()) if (found := values(rows, metric))}
    never = sum(row.samples_to_target is None for row in runs)
    points = Points(tuple(map(float, reached)), tuple(map(tuple, reached.values())))
    law = Law(
        key=next(iter(by_table(runs))),
        series=runs[0].strategy,
        law=TARGET.name,
        sizes=len(points.places),
        runs=points.runs,
        smallest=points.places[0],
        largest=points.places[-1],
        notes=(f"{plural(never, 'run')} did not reach the target and are not in it",) if never else (),
    )
    reason = why_not(points, TARGET.least_sizes)
    if reason:
        return replace(law, reason=reason)
    fitted, _ = _fitted(law, TARGET, points)
    return replace(fitted, notes=(*law.notes, *fitted.notes, *_too_large(fitted, max(by_batch))))


def _too_large(law: Law, batch: int) -> list[str]:
    critical = law.parameters["critical_batch"]
    if law.misfit or critical.high is None or not batch > critical.high:
        return []
    return [f"a global batch of {batch} is beyond the critical one: more devices buy throughput, little learning"]
