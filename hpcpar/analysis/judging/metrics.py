"""What strategies are compared in: each metric's number of a run, the better direction, and the margin that counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from hpcpar.analysis.rows.reduce import Row
from hpcpar.errors import InputError, Problem, nearest

Better = Literal["lower", "higher"]
_FLAG = "--margin"


class Metric(NamedTuple):
    """One column of the tables that compare strategies."""

    name: str
    """What `--margin` and the files call it."""
    words: str
    change: str
    """What its percentage is called: a reduction or an increase is good."""
    field: str
    """The field of a run's Row."""
    better: Better
    margin: float | None
    """A ratio within 1/(1 + margin) .. 1 + margin counts as no change; None: the user must say it."""
    timing: bool = False
    """Other work on the machine, or another amount of work, spoils it."""
    quality: bool = False
    """It depends on the seed: repeats of one seed are one piece of evidence."""
    needs_equal_batch: bool = False


METRICS = (
    Metric("time", "step time", "time reduction", "step_time_s", "lower", 0.05, timing=True, needs_equal_batch=True),
    Metric("throughput", "throughput", "throughput increase", "samples_per_s", "higher", 0.05, timing=True),
    Metric("memory", "peak memory of a rank", "memory reduction", "peak_memory_bytes", "lower", 0.02),
    Metric("memory_sum", "peak memory over ranks", "memory reduction (sum)", "sum_memory_bytes", "lower", 0.02),
    Metric(
        "device_memory", "peak device memory of a rank", "device memory reduction", "peak_device_bytes", "lower", 0.02
    ),
    Metric(
        "device_memory_sum",
        "peak device memory over ranks",
        "device memory reduction (sum)",
        "sum_device_bytes",
        "lower",
        0.02,
    ),
    Metric("loss", "last loss", "loss reduction", "loss_last", "lower", None, quality=True, needs_equal_batch=True),
    Metric(
        "evaluation_loss",
        "loss on unseen samples",
        "evaluation loss reduction",
        "evaluation_loss",
        "lower",
        None,
        quality=True,
        needs_equal_batch=True,
    ),
    Metric(
        "time_to_target", "time to the target loss", "time reduction to the target", "time_to_target_s", "lower", 0.05
    )._replace(timing=True, quality=True),
    Metric(
        "samples_to_target",
        "samples to the target loss",
        "fewer samples to the target",
        "samples_to_target",
        "lower",
        0.05,
    )._replace(quality=True),
)
"""Default margins: docs/verdicts.md. They are declared before anybody looks, and printed with every table."""
_BY_NAME = {metric.name: metric for metric in METRICS}


def margins(given: Sequence[str]) -> dict[str, float]:
    """Return the margin of every metric that has one.

    Args:
        given: "METRIC=SHARE", e.g. "loss=0.01", over the defaults.

    Raises:
        InputError: with every entry that is not of that form.
    """
    chosen = {metric.name: metric.margin for metric in METRICS if metric.margin is not None}
    problems = []
    for text in given:
        name, _, number = (part.strip() for part in text.partition("="))
        value = _share(number)
        if name not in _BY_NAME:
            problems.append(Problem(f"{_FLAG} {text}", f"there is no metric '{name}'", nearest(name, _BY_NAME)))
        elif value is None:
            what = f"'{number}' is not a share between 0 and 1"
            problems.append(Problem(f"{_FLAG} {text}", what, f"for example {_FLAG} {name}=0.05 for 5 %"))
        else:
            chosen[name] = value
    if problems:
        raise InputError(problems)
    return chosen


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < 1 else None


def compared(rows: Sequence[Row], chosen: Mapping[str, float]) -> list[Metric]:
    """Return the metrics that have a margin and of which some run has a number, in their fixed order."""
    return [
        metric for metric in METRICS if metric.name in chosen and any(number(row, metric) is not None for row in rows)
    ]


def number(row: Row, metric: Metric) -> float | None:
    """Return a run's number for a metric; None where it has none that is positive and finite."""
    value: float | int | None = getattr(row, metric.field)
    return float(value) if value is not None and math.isfinite(value) and value > 0 else None


def values(rows: Sequence[Row], metric: Metric) -> list[float]:
    """Return one number a piece of evidence: a run, or for a quality metric a seed (its runs' geometric mean)."""
    known = [(row.seed, found) for row in rows if (found := number(row, metric)) is not None]
    if not metric.quality:
        return [found for _, found in known]
    by_seed: dict[int, list[float]] = {}
    for seed, found in known:
        by_seed.setdefault(seed, []).append(math.log(found))
    return [math.exp(math.fsum(logs) / len(logs)) for _, logs in sorted(by_seed.items())]
