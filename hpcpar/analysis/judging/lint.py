"""What misleads about scaling measurements, looked for in the user's own. docs/lint.md lists every name.

The list is of traps that were found in published tables, and of the rules of T. Hoefler and R. Belli, SC'15.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from hpcpar.analysis.judging import intervals
from hpcpar.analysis.judging.comparability import CONDITIONS, FACTORS
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.flags import STILL_OPEN
from hpcpar.analysis.scaling.table import Cell, Table
from hpcpar.analysis.text.numbers import estimate, number, plural

LEAST_REPEATS = 3
LEAST_SIZES = 4
LEAST_STEPS = 100
LEAST_WINDOW_S = 60.0
STALL = 1.05
"""Mean over median of a run's steps: ten stalls of six steps' length in a thousand give as much."""
TREND = 0.01
SAME = 0.05
"""Relative: what repeats and ladders should agree to."""
LOSSES = 0.01
"""Relative: strategies that compute the same have the same loss; rounding grows over steps, but not to this."""
Severity = Literal["invalid", "weak", "note"]


class Finding(Struct, frozen=True, kw_only=True):
    """A trap that this study is in."""

    name: str
    severity: Severity
    """invalid: numbers do not mean what they seem to. weak: there is too little evidence. note: say it beside them."""
    where: str
    what: str
    fix: str = ""


class _Rule(NamedTuple):
    name: str
    severity: Severity
    check: Callable[[Table], Iterator[tuple[str, str]]]
    """Yields what is wrong as (where, what)."""
    fix: str


def lint(tables: Sequence[Table], target_loss: float | None = None) -> tuple[Finding, ...]:
    """Look for every trap in every table."""
    found = [
        Finding(name=rule.name, severity=rule.severity, where=f"{_title(table)}: {where}", what=what, fix=rule.fix)
        for table in tables
        for rule in _RULES
        for where, what in rule.check(table)
    ]
    found += _ladders_disagree(tables)
    if target_loss is None:
        found += _throughput_only(tables)
    order = {"invalid": 0, "weak": 1, "note": 2}
    return tuple(sorted(found, key=lambda one: (order[one.severity], one.name, one.where, one.what)))


def _title(table: Table) -> str:
    return f"{table.key.study}, {table.key.work}, {table.key.scaling or 'undeclared'}"


def _cells(table: Table, wrong: Callable[[Cell], str]) -> Iterator[tuple[str, str]]:
    """Yield a series' sizes together for each thing that is wrong with them."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in table.cells:
        what = wrong(cell)
        if what:
            found[cell.series, what].append(str(cell.nodes))
    for (series, what), nodes in found.items():
        yield f"{series} on {', '.join(nodes)} node{'s' * (nodes != ['1'])}", what


def _flagged(*starts: str) -> Callable[[Table], Iterator[tuple[str, str]]]:
    """Make a check out of the remarks that rows of scaling tables carry."""

    def check(table: Table) -> Iterator[tuple[str, str]]:
        yield from _cells(table, lambda cell: next((flag for flag in cell.flags if flag.startswith(starts)), ""))

    return check


def _runs(table: Table, wrong: Callable[[Row], str]) -> Iterator[tuple[str, str]]:
    """Yield how many runs of a size have something wrong, with the first one's words."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for row in table.rows:
        what = wrong(row) if row.usable else ""
        if what:
            found[row.strategy, row.nodes].append(what)
    for (strategy, nodes), words in found.items():
        yield f"{strategy} on {plural(nodes, 'node')}", f"{plural(len(words), 'run')}: {words[0]}"


def _one_baseline(table: Table) -> Iterator[tuple[str, str]]:
    names = [one.name for one in table.references]
    if len(names) > 1:
        yield "baselines", f"speed-ups are against {' and '.join(names)}, so those of one are not those of another"


def _slow_baseline(table: Table) -> Iterator[tuple[str, str]]:
    """A speed-up over a slow start is a large one: hold every baseline against the fastest of its size."""
    for one in table.references:
        rivals = [
            c for c in table.cells if c.nodes == one.nodes and c.series != one.label and c.step_time_s is not None
        ]
        mine = [row.step_time_s for row in one.rows if row.step_time_s]
        for cell in rivals:
            its = [r.step_time_s for r in _of_cell(table, cell) if r.usable and r.step_time_s]
            ratio = intervals.ratio(mine, its)
            if cell.global_batch == one.rows[0].global_batch and ratio.low is not None and ratio.low > 1 + SAME:
                yield f"baseline {one.name}", f"{cell.series} on the same nodes is {estimate(ratio)} times faster"


def _of_cell(table: Table, cell: Cell) -> list[Row]:
    same = ("strategy", "strategy_options", "mesh", "nodes", "global_batch", "micro_batch", "grad_accum")
    return [r for r in table.rows if all(getattr(r, name) == getattr(cell, name) for name in same)]


def _few_repeats(table: Table) -> Iterator[tuple[str, str]]:
    yield from _cells(
        table,
        lambda cell: f"{plural(cell.runs_ok, 'run')} with a result" if 0 < cell.runs_ok < LEAST_REPEATS else "",
    )


def _few_sizes(table: Table) -> Iterator[tuple[str, str]]:
    for label, cells in table.series().items():
        sizes = sum(cell.runs_ok > 0 for cell in cells)
        if 1 < sizes < LEAST_SIZES:
            yield label, f"{sizes} sizes: no law can be told from another by them"


def _mixed(table: Table) -> Iterator[tuple[str, str]]:
    usable = [row for row in table.rows if row.usable]
    for condition in CONDITIONS:
        if condition.name in FACTORS and (words := condition.mixture(usable)):
            yield condition.words, f"differs between runs of one table: {words}"


def _cpus(table: Table) -> Iterator[tuple[str, str]]:
    counts = sorted({row.usable_cpus for row in table.rows if row.usable and row.usable_cpus is not None})
    if len(counts) > 1:
        yield "usable CPUs", f"ranks could use {' or '.join(map(str, counts))} CPUs, depending on the run"


def _mock_data(row: Row) -> str:
    facts: dict[str, Any] = msgspec.json.decode(row.data)
    return f"{facts.get('name', 'its data')} is synthetic" if facts.get("synthetic") else ""


def _stalls(row: Row) -> str:
    if not row.step_time_s or not row.step_time_p50_s or row.step_time_s <= STALL * row.step_time_p50_s:
        return ""
    return f"the mean step takes {number(row.step_time_s / row.step_time_p50_s, 3)} times the median one"


def _trend(row: Row) -> str:
    if row.not_steady:
        return "step times never settled"
    change = row.step_time_trend
    return f"step times change by {change:+.1%} over the window" if change is not None and abs(change) > TREND else ""


def _short(row: Row) -> str:
    seconds = row.steps_used * (row.step_time_s or 0.0)
    if row.steps_used >= LEAST_STEPS or seconds >= LEAST_WINDOW_S:
        return ""
    return f"a window of {row.steps_used} steps and {number(seconds, 2)} s"


def _losses_drift(table: Table) -> Iterator[tuple[str, str]]:
    groups: dict[tuple[int, int, int, int], dict[str, float]] = defaultdict(dict)
    for row in table.rows:
        if row.usable and row.loss_last is not None:
            groups[row.nodes, row.global_batch, row.seed, row.steps_planned].setdefault(row.strategy, row.loss_last)
    for (nodes, *_), losses in groups.items():
        low, high = min(losses, key=losses.__getitem__), max(losses, key=losses.__getitem__)
        if losses[high] - losses[low] > LOSSES * abs(losses[low]):
            what = f"last loss {number(losses[low], 6)} with {low}, {number(losses[high], 6)} with {high}"
            yield plural(nodes, "node"), f"{what}, from one seed and the same samples"


def _one_machine(table: Table) -> Iterator[tuple[str, str]]:
    if any(row.uses_cpu for row in table.rows):  # what only sleeps may play many nodes
        yield from _cells(table, lambda cell: next((flag for flag in cell.flags if "physical machine" in flag), ""))


def _survivors(table: Table) -> Iterator[tuple[str, str]]:
    """A run that reached its end without a time was not selected by how slow it was."""

    def failed(cell: Cell) -> str:
        number = sum(row.state not in ("done", *STILL_OPEN) for row in _of_cell(table, cell))
        return f"{number} of {plural(cell.runs_asked, 'run')} failed" if number else ""

    yield from _cells(table, failed)


def _baseline_drifts(table: Table) -> Iterator[tuple[str, str]]:
    for one in table.references:
        runs = sorted((row for row in one.rows if row.started is not None), key=lambda row: row.started or 0.0)
        if len(runs) < 2 or not runs[0].step_time_s or not runs[-1].step_time_s:
            continue
        drift = runs[-1].step_time_s / runs[0].step_time_s
        if abs(math.log(drift)) > math.log1p(SAME):
            yield f"baseline {one.name}", f"its last run took {number(drift, 3)} times the step time of its first"


_RULES = (
    _Rule("super-linear", "invalid", _flagged("super-linear"), "look at the baseline first: it may be sick"),
    _Rule("baseline-missing", "invalid", _flagged("baseline missing"), "run the smallest size, or name --baseline"),
    _Rule("slow-baseline", "invalid", _slow_baseline, "name the fastest with --baseline STRATEGY@NODES"),
    _Rule("different-baselines", "note", _one_baseline, "--baseline STRATEGY@NODES makes it one"),
    _Rule("one-repeat", "weak", _few_repeats, "--repeats 3 is the least for an interval that says something"),
    _Rule("few-sizes", "weak", _few_sizes, f"measure {LEAST_SIZES} sizes or more, doubling"),
    _Rule("mixed-conditions", "invalid", _mixed, "submit with --again what ran under other conditions"),
    _Rule("different-hardware", "invalid", _cpus, "ask for one kind of node (--constraint, --partition)"),
    _Rule("weak-load", "invalid", _flagged("weak load"), "weak scaling keeps the load of a rank"),
    _Rule("oversubscribed", "invalid", _flagged("oversubscribed", "its baseline was oversubscribed"), "fewer ranks"),
    _Rule("shared-machine", "invalid", _flagged("shared its machine", "its baseline was measured"), "run it alone"),
    _Rule("one-machine", "invalid", _one_machine, "nodes of one machine say nothing of a network"),
    _Rule("baseline-drift", "invalid", _baseline_drifts, "something else changed meanwhile: repeat the study"),
    _Rule(
        "losses-differ", "invalid", _losses_drift, "fine for localsgd and async, else one of them trains another model"
    ),
    _Rule(
        "loss-diverged", "invalid", _flagged("the loss of"), "a model that does not learn may be as fast as it likes"
    ),
    _Rule("mock-data", "note", lambda t: _runs(t, _mock_data), "loading real data may cost time that is not in here"),
    _Rule("stalls", "note", lambda t: _runs(t, _stalls), "budgets need the mean, steady speed is the median"),
    _Rule("not-steady", "weak", lambda t: _runs(t, _trend), "cut more with --warmup-steps, or run longer"),
    _Rule(
        "short-window", "weak", lambda t: _runs(t, _short), f"{LEAST_STEPS} steps or {LEAST_WINDOW_S:g} s are the least"
    ),
    _Rule("waits-for-data", "note", _flagged("waits for data"), "its step time leaves this out"),
    _Rule(
        "survivors",
        "weak",
        _survivors,
        "what failed may be what was slow: see its cause with `hpcpar status`",
    ),
)


class _Place(NamedTuple):
    workload: str
    strategy: str
    nodes: int
    global_batch: int
    same: tuple[object, ...]


def _ladders_disagree(tables: Sequence[Table]) -> Iterator[Finding]:
    """Where a strong and a weak ladder have a point in common, they must agree on it."""
    points: dict[_Place, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in (row for table in tables for row in table.rows if row.usable and row.step_time_s):
        same = (row.cluster, row.node_type, row.workload_options, row.strategy_options, row.ranks_per_node)
        place = _Place(row.workload, row.strategy, row.nodes, row.global_batch, same)
        points[place][row.scaling].append(row.step_time_s or 0.0)
    for place, ladders in points.items():
        if not {"strong", "weak"} <= set(ladders):
            continue
        ratio = intervals.ratio(ladders["weak"], ladders["strong"])
        low, high = ratio.low or 0.0, ratio.high or math.inf
        if abs(math.log(ratio.value)) > math.log1p(SAME) and not low <= 1 <= high:
            yield Finding(
                name="ladders-disagree",
                severity="invalid",
                where=f"{place.workload}, {place.strategy} on {plural(place.nodes, 'node')}",
                what=f"the weak ladder's step time is {estimate(ratio)} times the strong one's at their common point",
                fix="the machine was not the same: repeat both together",
            )


def _throughput_only(tables: Sequence[Table]) -> Iterator[Finding]:
    for table in tables:
        batches = sorted({cell.global_batch for cell in table.cells if cell.runs_ok})
        if len(batches) > 1 and any(row.loss_last is not None for row in table.rows):
            yield Finding(
                name="throughput-only",
                severity="note",
                where=_title(table),
                what=f"global batches of {batches[0]} to {batches[-1]}: more samples a second may teach less",
                fix="--target-loss LOSS compares the samples and the time to reach it",
            )
