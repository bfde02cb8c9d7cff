"""Estimators: the parallel support that is claimed beside the speed-up that was measured.

Speed-up S(n) = T(1) / T(n), the times of one fit and use with 1 and with n workers of the same strategy.
Verdict, from the interval of S: "full" wholly at or above 0.75 n; "limited" wholly above 1 and below that; "none"
wholly below 1.1; anything else is "unclear": more repeats, or a quieter machine, would tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from hpcpar.analysis.judging import intervals
from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.text.numbers import estimate
from hpcpar.analysis.text.sheet import Sheet, one_line

FULL = 0.75
"""Efficiency from which on support is called full."""
NONE = 1.1
"""Speed-up below which there is none."""
FACTS = (
    "Speed-up: time of one fit and use with 1 worker over that with n; 95 % intervals over runs.",
    f"Verdict: full, the interval is wholly at or above {FULL:g} n; limited, wholly above 1 and below that; none, "
    f"wholly below {NONE:g}; unclear, anything else; disturbed, CPUs were oversubscribed or shared with other runs.",
    "Where a finding says baseline-drift, something else used the machine: verdicts on such times do not hold.",
)


class Support(Struct, frozen=True, kw_only=True):
    """A row of the table: an estimator under a strategy with several workers."""

    study: str
    cluster: str
    estimator: str
    claim: str
    strategy: str
    workers: int
    runs: int
    time_one_s: Estimate
    time_s: Estimate
    speedup: Estimate
    verdict: str
    oversubscribed: bool


def supports(rows: Sequence[Row]) -> tuple[Support, ...]:
    """Compare every estimator's runs of several workers with those of one."""
    groups: dict[tuple[str, ...], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        workers = workers_of(row)
        if row.usable and row.claim and workers:
            sizes = f"{row.cpus_per_rank} {row.global_batch} {row.steps_planned} {row.seed}"
            key = (row.study, row.cluster, row.workload_options, row.strategy, sizes)
            groups[key][workers].append(row)
    return tuple(
        _support(by_workers[1], by_workers[workers], workers)
        for by_workers in groups.values()
        if 1 in by_workers
        for workers in sorted(by_workers)
        if workers > 1
    )


def workers_of(row: Row) -> int:
    """Return how many workers a run was given: as many as its ranks have CPUs, where its options do not say."""
    options = msgspec.json.decode(row.strategy_options)
    workers = options.get("workers", 0) if isinstance(options, dict) else 0
    return (workers or row.cpus_per_rank * max(1, row.ranks)) if isinstance(workers, int) else 0


def _support(one: Sequence[Row], several: Sequence[Row], workers: int) -> Support:
    first = several[0]
    times_one, times = ([row.step_time_s for row in rows if row.step_time_s] for rows in (one, several))
    speedup = intervals.ratio(times_one, times)
    disturbed = any(row.oversubscribed or row.shared_with for row in (*one, *several))
    return Support(
        study=first.study,
        cluster=first.cluster,
        estimator=str(msgspec.json.decode(first.workload_options).get("estimator", "")),
        claim=first.claim,
        strategy=first.strategy,
        workers=workers,
        runs=len(several),
        time_one_s=intervals.mean(times_one),
        time_s=intervals.mean(times),
        speedup=speedup,
        verdict="disturbed" if disturbed else verdict(speedup, workers),
        oversubscribed=disturbed,
    )


def verdict(speedup: Estimate, workers: int) -> str:
    """Judge a speed-up by its interval; without one there is no verdict."""
    if speedup.low is None or speedup.high is None:
        return "one run"
    if speedup.low >= FULL * workers:
        return "full"
    if speedup.high < NONE:
        return "none"
    return "limited" if speedup.low > 1 and speedup.high < FULL * workers else "unclear"


def sheet(found: Sequence[Support]) -> Sheet:
    """Lay out what estimators claim beside what was measured."""
    heads = [
        "estimator",
        "claimed",
        "strategy",
        "workers",
        "runs",
        "1 worker (ms)",
        "n workers (ms)",
        "speed-up",
        "verdict",
    ]
    body = [
        [
            *(one.estimator, one.claim, one.strategy, str(one.workers), str(one.runs)),
            *(estimate(one.time_one_s.times(1e3)), estimate(one.time_s.times(1e3)), estimate(one.speedup), one.verdict),
        ]
        for one in found
    ]
    return Sheet(heads, [[one_line(text) for text in line] for line in body], {0, 1, 2, 8})
