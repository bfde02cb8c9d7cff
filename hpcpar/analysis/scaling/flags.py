"""What is wrong with a row of a scaling table, in words. A number that needs a "but" carries it beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.baseline import Reference
from hpcpar.analysis.scaling.series import load
from hpcpar.analysis.text.numbers import plural

SUPER_LINEAR = 1.05
"""A speed-up beyond this times r needs an explanation (a cache that fits, or a baseline that is sick)."""
NOTABLE_WAIT = 0.05
"""Share of the step time from which waiting for data is worth a word."""
DECLARED = ("strong", "weak")
"""The kinds of scaling for which a speed-up is defined."""
STILL_OPEN = ("planned", "submitted", "queued", "running")
"""States of runs that may still bring a result."""


def asked(rows: Sequence[Row]) -> int:
    """Return how many repeats were asked for; repeats count from 1, so a gap is a run without a folder."""
    return max(len(rows), *(row.repeat for row in rows))


def of_runs(rows: Sequence[Row], usable: Sequence[Row]) -> list[str]:
    """Say which of the runs that were asked for have no time, and why."""
    wanted = asked(rows)
    flags = [] if len(usable) == wanted else [f"{len(usable)} of {plural(wanted, 'run')} with a time"]
    failed = Counter(row.cause or row.state for row in rows if row.state not in ("done", *STILL_OPEN))
    flags += [f"{count} failed: {cause}" for cause, count in sorted(failed.items())]
    waiting = Counter(row.state for row in rows if row.state in STILL_OPEN)
    flags += [f"{count} {state}" for state, count in sorted(waiting.items())]
    too_few = sum(row.state == "done" and row.too_few_steps for row in rows)
    flags += [f"{too_few} with too few steps"] if too_few else []
    flags += [f"{wanted - len(rows)} without a folder"] if wanted > len(rows) else []
    return flags + (["1 run: no interval"] if len(usable) == 1 else [])


def of_times(usable: Sequence[Row]) -> list[str]:
    """Say what else than the strategy may have set the times."""
    flags = ["oversubscribed"] if any(row.oversubscribed for row in usable) else []
    if any(row.shared_with for row in usable):
        flags.append("shared its machine with other runs")
    crowded = [row for row in usable if row.machines and len(row.machines) < row.nodes]
    if crowded:
        machines = min(len(row.machines) for row in crowded)
        flags.append(f"{crowded[0].nodes} nodes on {plural(machines, 'physical machine')}")
    if any(row.quick for row in usable):
        flags.append("quick: shortened, not for publication")
    if any(row.not_steady for row in usable):
        flags.append("not steady: its step time never settled")
    waits = [row.data_wait_s / row.step_time_s for row in usable if row.data_wait_s and row.step_time_s]
    if waits and max(waits) > NOTABLE_WAIT:
        flags.append(f"waits for data up to {max(waits):.0%} of the step time, not counted in it")
    if any(row.whole_program for row in usable):
        flags.append("timed from outside: a step is a whole program")
    flags += sorted(
        {note for row in usable for note in row.notes if "were planned" in note or "wrong transport" in note}
    )
    diverged = sum(row.loss_diverged for row in usable)
    return flags + ([f"the loss of {diverged} was not finite at the end"] if diverged else [])


def of_comparison(first: Row, reference: Reference | None, is_baseline: bool, speedup: Estimate | None) -> list[str]:
    """Say what is wrong with the comparison with the baseline."""
    if first.scaling not in DECLARED:
        return [f"scaling is {first.scaling or 'undeclared'}: no speed-up"]
    if reference is None:
        return ["baseline missing"]
    if is_baseline:
        return []
    flags = []
    mine, its = load(first), load(reference.rows[0])
    if mine != its and first.scaling == "strong":
        flags.append(f"global batch {mine} is not the baseline's {its}: no speed-up")
    elif mine != its:
        flags.append(f"weak load not constant: {float(mine):g} a rank, the baseline has {float(its):g}")
    if any(row.oversubscribed for row in reference.rows):
        flags.append("its baseline was oversubscribed")
    if any(row.shared_with for row in reference.rows):
        flags.append("its baseline was measured beside other runs")
    growth = first.ranks / reference.rows[0].ranks
    if speedup is not None and speedup.value > SUPER_LINEAR * growth:
        flags.append(f"super-linear: speed-up above {SUPER_LINEAR:g} x {growth:g}")
    return flags
