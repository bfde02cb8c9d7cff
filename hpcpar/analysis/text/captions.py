"""What must stand beside a table so that it means something: title, fixed quantity, baseline, statistic, evidence.

After T. Hoefler and R. Belli, Scientific Benchmarking of Parallel Computing Systems, SC'15: name the base case with its
absolute performance (rule 1), explain what was left out (rule 2), give intervals (rule 5), document factors (rule 9).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hpcpar.analysis.judging.comparability import versions
from hpcpar.analysis.judging.intervals import Estimate, mean
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.baseline import Reference
from hpcpar.analysis.scaling.flags import DECLARED
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text.numbers import estimate, plural

_TITLES = {"strong": "Strong scaling", "weak": "Weak scaling"}


def title(table: Table) -> str:
    """Return the table's heading."""
    key = table.key
    kind = _TITLES.get(key.scaling, f"Runs ({key.scaling or 'undeclared'} scaling)")
    return f"{kind} of {key.work} on {key.cluster} ({key.node_type} nodes), study {key.study}"


def facts(table: Table) -> list[str]:
    """Return the sentences that a reader needs before the numbers, in order."""
    return [
        *_fixed(table),
        *(f"Baseline: {line}." for line in baseline_lines(table)),
        _statistic(table),
        _interval(table),
        _layout(table),
        *_evidence(table.rows),
        *_software(table.rows),
    ]


def brief_facts(table: Table) -> list[str]:
    """Return those without which the numbers would mislead: what is fixed, the baselines, doubts about the evidence."""
    return [*_fixed(table), *(f"Baseline: {line}." for line in baseline_lines(table)), *_evidence(table.rows)]


def unit(estimates: Sequence[Estimate | None]) -> tuple[str, float]:
    """Return the unit in which these times read best, and what one second is in it."""
    largest = max((known.value for known in estimates if known is not None), default=1.0)
    return ("s", 1.0) if largest >= 10 else ("ms", 1e3) if largest >= 1e-3 else ("us", 1e6)


def fixed_quantity(table: Table) -> str:
    """Return what the scaling holds constant, with its value, for a title."""
    if table.key.scaling == "strong":
        batches = sorted({cell.global_batch for cell in table.cells})
        return f"global batch of {' or '.join(map(str, batches))} {table.rows[0].sample_unit}"
    loads = sorted({cell.global_batch / cell.ranks for cell in table.cells})
    return f"{' or '.join(f'{load:g}' for load in loads)} {table.rows[0].sample_unit} a rank"


def _fixed(table: Table) -> list[str]:
    if table.key.scaling not in DECLARED:
        return ["Fixed: nothing was declared, so there is neither speed-up nor efficiency."]
    ideal = "speed-up r" if table.key.scaling == "strong" else "scaled speed-up (ratio of throughputs) r"
    return [f"Fixed: {fixed_quantity(table)}. Ideal: {ideal} on r times the baseline's ranks, efficiency 100 %."]


def baseline_lines(table: Table) -> list[str]:
    """Name every baseline with its absolute performance."""
    lines = [_absolute(reference) for reference in table.references]
    for label, cells in table.series().items():
        first = cells[0]
        reference = next((one for one in table.references if one.label == label), None)
        if reference is not None and first.step_time_s is None and first.nodes < reference.nodes:
            lines.append(f"{label} has no time on its smallest size, {plural(first.nodes, 'node')}")
    if table.key.scaling in DECLARED and any(not cell.baseline for cell in table.cells):
        without = sorted({cell.series for cell in table.cells if not cell.baseline})
        lines.append(f"missing for {', '.join(without)}: no run of it has a time")
    return lines


def _absolute(reference: Reference) -> str:
    rows = reference.rows
    times = mean([row.step_time_s for row in rows if row.step_time_s is not None])
    known = [row.samples_per_s for row in rows if row.samples_per_s is not None]
    rates = mean(known) if known else None
    word, factor = unit([times])
    size = f"{plural(rows[0].nodes, 'node')} ({plural(rows[0].ranks, 'rank')})"
    return (
        f"{reference.label} on {size}: {estimate(times.times(factor))} {word} a step, "
        f"{estimate(rates)} {rows[0].sample_unit}/s, {plural(len(rows), 'run')}"
    )


def _statistic(table: Table) -> str:
    return (
        f"Statistic: a run's step time is the mean over its steps (slowest rank of each) after the first "
        f"{warmup_words(table)} (warm-up) were cut; a row is the geometric mean over its runs."
    )


def warmup_words(table: Table) -> str:
    """Say how many steps were cut: one number, those that differ, or the range where runs became steady."""
    cuts = {row.warmup_steps if row.warmup_cut is None else row.warmup_cut for row in table.rows}
    if any(row.warmup_cut not in (None, row.warmup_steps) for row in table.rows):
        least, most = min(cuts), max(cuts)
        return f"{least if least == most else f'{least} to {most}'}, until they were steady,"
    return " or ".join(map(str, sorted(cuts)))


def _interval(table: Table) -> str:
    compared = "; speed-up and efficiency: Welch's t for two sets of runs" if table.key.scaling in DECLARED else ""
    return f"Interval: 95 %, Student's t on the logarithms of runs{compared}. One run has none."


def _layout(table: Table) -> str:
    key = table.key
    asked = plural(key.cpus_per_rank, "CPU")
    options = "" if key.workload_options == "{}" else f" Workload options: {key.workload_options}."
    return f"Layout: {plural(key.ranks_per_node, 'rank')} a node, {asked} a rank.{options}"


def _evidence(rows: Sequence[Row]) -> list[str]:
    """Say how many runs and which physical machines stand behind the table."""
    usable = [row for row in rows if row.usable]
    lines = [f"Evidence: {len(usable)} of {plural(len(rows), 'run')} have a time."]
    machines = {machine for row in usable for machine in row.machines}
    cpus = [row.usable_cpus for row in usable if row.usable_cpus is not None]
    if machines and cpus:
        low, high = min(cpus), max(cpus)
        many = f"{low} to {high} CPUs" if low != high else plural(high, "CPU")
        lines[0] += f" They ran on {plural(len(machines), 'physical machine')}; a rank could use up to {many} there."
    if any(row.oversubscribed for row in usable):
        lines.append(
            "Oversubscribed rows: their ranks and threads were more than the CPUs of the physical machine. Their "
            "numbers are shown, but they are no evidence of scaling, and nothing is concluded from them."
        )
    if any(row.machines and len(row.machines) < row.nodes for row in usable):
        lines.append(
            "Some nodes of these runs were the same physical machine: this shows that the path works, not how a "
            "cluster scales."
        )
    return lines


def _software(rows: Sequence[Row]) -> list[str]:
    found = versions([msgspec.json.decode(row.versions) for row in rows if row.usable])
    if not found:
        return []
    words = "Software differs between runs" if any(len(numbers) > 1 for numbers in found.values()) else "Software"
    listing = ", ".join(f"{name} {' / '.join(numbers)}" for name, numbers in found.items())
    return [f"{words}: {listing}."]
