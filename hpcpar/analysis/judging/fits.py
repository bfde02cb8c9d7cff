"""Estimators: what a fit takes, and what came of it, beside the speed-up of support.py."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from hpcpar.analysis.judging import intervals
from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.judging.support import workers_of
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.text.numbers import NOTHING, estimate, memory, number
from hpcpar.analysis.text.sheet import Sheet, one_line

FACTS = (
    "Fit and use: median over the steps of a run, mean over runs. Use is what follows the fit: predicting and scoring "
    "the rows of training; searches and clusterings have next to none.",
    "Score: accuracy, R^2, adjusted Rand index or explained variance, as the estimator's kind has it; 1 is the best.",
    "Threads: workers x native threads each. Memory: the largest process that is a rank or one of Dask's workers; what "
    "joblib's own processes hold is not in it.",
)


class Fit(Struct, frozen=True, kw_only=True):
    """A row of the table: an estimator under a strategy with so many workers."""

    study: str
    cluster: str
    estimator: str
    strategy: str
    workers: int
    threads: int | None
    runs: int
    fit_s: float | None
    use_s: float | None
    score: float | None
    rows_per_s: Estimate | None
    peak_memory_bytes: int | None
    oversubscribed: bool


def fits(rows: Sequence[Row]) -> tuple[Fit, ...]:
    """Gather the runs of estimators, in the order in which they come."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.usable and row.claim and workers_of(row):
            sizes = f"{workers_of(row)} {row.cpus_per_rank} {row.global_batch} {row.seed}"
            groups[row.study, row.cluster, row.workload_options, row.strategy, sizes].append(row)
    return tuple(_fit(members) for members in groups.values())


def _fit(rows: Sequence[Row]) -> Fit:
    first = rows[0]
    losses = [row.loss_last for row in rows if row.loss_last is not None]
    rates = [row.samples_per_s for row in rows if row.samples_per_s]
    peaks = [row.peak_memory_bytes for row in rows if row.peak_memory_bytes is not None]
    return Fit(
        study=first.study,
        cluster=first.cluster,
        estimator=str(msgspec.json.decode(first.workload_options).get("estimator", "")),
        strategy=first.strategy,
        workers=workers_of(first),
        threads=first.threads,
        runs=len(rows),
        fit_s=_mean([row.fit_s for row in rows]),
        use_s=_mean([row.use_s for row in rows]),
        score=1 - statistics.fmean(losses) if losses else None,
        rows_per_s=intervals.mean(rates) if rates else None,
        peak_memory_bytes=max(peaks, default=None),
        oversubscribed=any(row.oversubscribed for row in rows),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def sheet(found: Sequence[Fit]) -> Sheet:
    """Lay out what fits take."""
    heads = ["estimator", "strategy", "workers", "threads", "runs", "fit (ms)", "use (ms)", "rows/s", "score", "memory"]
    body = [
        [
            *(one.estimator, one.strategy, str(one.workers), str(one.threads or NOTHING), str(one.runs)),
            *(number(None if part is None else part * 1e3) for part in (one.fit_s, one.use_s)),
            *(estimate(one.rows_per_s), number(one.score), memory(one.peak_memory_bytes)),
            "oversubscribed" if one.oversubscribed else "",
        ]
        for one in found
    ]
    return Sheet([*heads, "remarks"], [[one_line(text) for text in line] for line in body], {0, 1, 10})
