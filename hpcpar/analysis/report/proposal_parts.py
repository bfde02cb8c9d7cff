"""Parts of a proposal's performance section, each with what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from hpcpar.analysis.judging.lint import LEAST_REPEATS, LEAST_SIZES
from hpcpar.analysis.report.methods import methods, provenance
from hpcpar.analysis.results import Results
from hpcpar.analysis.scaling.table import Cell, Table
from hpcpar.analysis.text.captions import fixed_quantity, title, unit
from hpcpar.analysis.text.headlines import headlines
from hpcpar.analysis.text.numbers import NOTHING, estimate, memory, plural
from hpcpar.analysis.text.sheet import Sheet, markdown, one_line

YOURS = "(yours to fill)"
"""A cell that no measurement can fill."""
STEPS = 1000
"""Updates for which costs are given: a proposal multiplies."""
_NO_CLUSTERS = frozenset({"local", "slurm-test"})
"""Profiles of this machine and of the tests: no centre asks for either."""


class Request(NamedTuple):
    """What the proposal will ask for."""

    largest_nodes: int | None = None
    """Nodes of its largest job; None: nobody said."""


class Part(NamedTuple):
    """Some Markdown, and what it lacks."""

    lines: list[str]
    gaps: list[str]
    """What only more runs, or another choice of runs, can fill."""


Builder = Callable[[Results, Request], Part]


def strong(results: Results, request: Request) -> Part:
    """Strong scaling: every table of it, with the gaps of each ladder."""
    return _ladders(results, request, "strong")


def weak(results: Results, request: Request) -> Part:
    """Weak scaling likewise."""
    return _ladders(results, request, "weak")


def _ladders(results: Results, request: Request, kind: str) -> Part:
    tables = [table for table in results.tables if table.key.scaling == kind]
    if not tables:
        return Part([], [f"no {kind} scaling was measured: submit a study with --scaling {kind}"])
    lines: list[str] = []
    gaps: list[str] = []
    for table in tables:
        lines += [f"{title(table)}. Fixed: {fixed_quantity(table)}.", "", _ladder(table), ""]
        lines += [*(f"- {line}" for line in headlines(table, results.efficiency_target)), ""]
        gaps += _gaps_of(table, request)
    return Part(lines, gaps)


def _ladder(table: Table) -> str:
    word, factor = unit([cell.step_time_s for cell in table.cells])
    heads = [
        "strategy",
        "nodes",
        "ranks",
        "global batch",
        f"time a step ({word})",
        "speed-up",
        "efficiency (%)",
        "runs",
    ]
    body = [
        [
            *(cell.series, str(cell.nodes), str(cell.ranks), str(cell.global_batch)),
            estimate(cell.step_time_s.times(factor)) if cell.step_time_s else NOTHING,
            "1 (baseline)" if cell.is_baseline else estimate(cell.speedup),
            estimate(cell.efficiency.times(100)) if cell.efficiency else NOTHING,
            f"{cell.runs_ok}/{cell.runs_asked}",
        ]
        for cell in table.cells
    ]
    return _table(heads, body, {0})


def _table(heads: list[str], body: list[list[str]], left: set[int]) -> str:
    return markdown(Sheet(heads, [[one_line(text) for text in line] for line in body], left))


def _gaps_of(table: Table, request: Request) -> Iterator[str]:
    where = title(table)
    for label, cells in table.series().items():
        timed = [cell for cell in cells if cell.step_time_s is not None]
        sound = [cell for cell in timed if cell.evidence]
        if len(timed) < LEAST_SIZES:
            yield f"{where}: {label} has {plural(len(timed), 'size')} with a time: measure at least {LEAST_SIZES}"
        few = [str(cell.nodes) for cell in timed if cell.runs_ok < LEAST_REPEATS]
        if few:
            yield f"{where}: {label} has fewer than {LEAST_REPEATS} runs on {', '.join(few)} nodes: raise --repeats"
        if timed and not sound:
            yield f"{where}: nothing may be concluded from {label}: {'; '.join(sorted(_doubts(timed)))}"
        largest = max((cell.nodes for cell in sound), default=0)
        if request.largest_nodes is not None and 0 < largest < request.largest_nodes:
            asked = f"largest requested job {request.largest_nodes} nodes, largest measured {largest}"
            yield f"{where}: {label}: {asked}: add a point"


def _doubts(cells: Sequence[Cell]) -> set[str]:
    return {flag for cell in cells for flag in cell.flags} or {"its runs were disturbed"}


def machine(results: Results, _request: Request) -> Part:
    """The machine on which it was measured."""
    facts = [
        (name, value) for name, value in provenance(results) if name in ("clusters", "devices", "data", "software")
    ]
    local = sorted({row.cluster for row in results.rows if row.cluster in _NO_CLUSTERS})
    gaps = [f"measured on '{name}': measure on the machine that you ask for" for name in local]
    return Part([f"- {name}: {one_line(value)}" for name, value in facts], gaps)


def precision(results: Results, _request: Request) -> Part:
    """In which number format it was computed."""
    found = set()
    for row in results.rows:
        if row.usable:
            options = msgspec.json.decode(row.strategy_options)
            found.add(f"{row.strategy}: {options.get('precision', 'fp32')}")
    return Part([f"- {line}" for line in sorted(found)], [] if found else ["no run has a result"])


def mechanism(results: Results, _request: Request) -> Part:
    """How it was measured, in sentences."""
    return Part([line for text in methods(results) for line in (text, "")], [])


def memory_usage(results: Results, _request: Request) -> Part:
    """Peak memory of a rank over strategies and sizes."""
    body = [
        [cell.series, str(cell.nodes), memory(cell.peak_memory_bytes), memory(cell.peak_device_bytes)]
        for table in results.tables
        for cell in table.cells
        if cell.runs_ok
    ]
    if not any(cell != NOTHING for line in body for cell in line[2:]):
        return Part([], ["no run recorded its memory"])
    heads = ["strategy", "nodes", "peak memory of a rank", "peak device memory of a rank"]
    return Part([_table(heads, body, {0})], [])


def largest_efficient(results: Results, request: Request) -> Part:
    """The largest node count that is used efficiently, in the headlines' words."""
    lines = [f"- {line}" for table in results.tables for line in headlines(table, results.efficiency_target)]
    if not lines:
        return Part([], ["no efficiency is known: declare a scaling and measure a second size"])
    gaps = [] if request.largest_nodes is not None else ["say how large your largest job is: --largest-job NODES"]
    return Part(lines, gaps)


def costs(results: Results, _request: Request) -> Part:
    """Node-hours, core-hours and device-hours of 1,000 updates, with intervals."""
    heads = [
        "configuration", "nodes", f"node-hours for {STEPS} updates", "core-hours", "device-hours",
        "number of runs", "updates a run", "total node-hours",
    ]  # fmt: skip
    body = []
    for table in results.tables:
        first = table.rows[0]
        for cell in table.cells:
            if cell.step_time_s is None:
                continue
            hours = cell.step_time_s.times(cell.nodes * STEPS / 3600)
            cores, devices = table.key.ranks_per_node * table.key.cpus_per_rank, first.gpus_per_node
            body.append(
                [
                    *(f"{table.key.workload}, {cell.series}", str(cell.nodes), estimate(hours)),
                    estimate(hours.times(cores)),
                    estimate(hours.times(devices)) if devices else NOTHING,
                    *(YOURS, YOURS, YOURS),
                ]
            )
    if not body:
        return Part([], ["no run has a time: nothing can be costed"])
    said = "Steps alone: add start-up, evaluation and checkpoints (phases in runs.csv), and failed attempts."
    return Part([_table(heads, body, {0, 5, 6, 7}), "", said], [])


def jobs(results: Results, request: Request) -> Part:
    """The table of job sizes: what was measured on the largest and the smallest."""
    measured = [(table, cell) for table in results.tables for cell in table.cells if cell.step_time_s is not None]
    if not measured:
        return Part([], ["no run has a time: there is no job to describe"])
    low, high = (pick(measured, key=lambda one: one[1].nodes) for pick in (min, max))
    body = []
    for word, (table, cell) in (("largest measured", high), ("smallest measured", low)):
        cores = table.key.ranks_per_node * table.key.cpus_per_rank
        held = (cell.peak_memory_bytes or 0) * table.key.ranks_per_node
        body.append([word, str(cell.nodes), str(cores), memory(held), YOURS, YOURS])
    heads = ["job", "nodes", "cores a node", "memory a node (at most)", "wall time", "number of jobs"]
    gaps = [] if request.largest_nodes is not None else ["say how large your largest job is: --largest-job NODES"]
    return Part([_table(heads, body, {0, 4, 5})], gaps)


def figures(results: Results, _request: Request) -> Part:
    """Where the plots are."""
    names = ["scaling" if place == 1 else f"scaling-{place}" for place, _ in enumerate(results.tables, start=1)]
    return Part([f"- figures/{name}.pdf: speed-up with the ideal line, and efficiency" for name in names], [])


def yours(_results: Results, _request: Request) -> Part:
    """A part that no measurement can fill."""
    return Part([YOURS], [])
