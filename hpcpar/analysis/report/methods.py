"""How the numbers were made, in sentences that can be copied into a paper; and what they were made of."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

import hpcpar
from hpcpar.analysis.judging.intervals import LEVEL
from hpcpar.analysis.judging.metrics import METRICS
from hpcpar.analysis.judging.verdicts import ALPHA
from hpcpar.analysis.text.numbers import number, plural

if TYPE_CHECKING:
    from hpcpar.analysis.results import Results


def methods(results: Results) -> list[str]:
    """Return the paragraphs of a methods section; only what was really done."""
    rows = results.rows
    cuts = sorted({row.warmup_steps for row in rows if row.usable})
    level = f"{100 * LEVEL:g} %"
    found = [
        "Timing: every rank timed every update with its monotonic clock, after the device had finished; the time of an "
        "update is that of the slowest rank. Waiting for samples is recorded apart and is no part of it.",
        f"Window: the first {' or '.join(map(str, cuts)) or 'planned'} updates of every attempt (warm-up) were cut "
        "when the tables were made; a run's step time is the mean over the remaining updates, so that work over time "
        "is total work over total time.",
        f"Evidence: the run is the unit, not the step. Means are geometric, intervals are {level} Student's t "
        "intervals on the logarithms of one number a run; those of speed-ups and efficiencies are Welch's for two sets "
        "of runs. One run has no interval. No run was left out for its value.",
        f"Efficiency is held against {number(100 * results.efficiency_target, 3)} %; it is reached where the whole "
        "interval is at or above it, and nothing is said beyond the measured sizes.",
    ]
    sets = [*results.against, *results.comparisons]
    if any(one.comparisons for one in sets):
        margins = {cell.metric: cell.margin for one in sets for cell in one.comparisons}
        said = ", ".join(f"{m.words} {100 * margins[m.name]:g} %" for m in METRICS if m.name in margins)
        family = sum(one.family for one in sets)
        found.append(
            f"Verdicts: {plural(family, 'difference')} tested. An arm improves or "
            f"deteriorates a metric where its {level} interval excludes no difference after Holm's adjustment within "
            f"its table and the estimate is beyond the margin; no change is claimed where two one-sided tests at "
            f"{100 * ALPHA:g} % put the ratio inside the margin; everything else is inconclusive. Margins: {said}."
        )
    if any(not law.reason for law in results.fitted):
        found.append(
            "Laws were fitted by non-negative least squares of relative errors; intervals come from resampled runs; "
            "no law is followed beyond twice the largest measured size."
        )
    return found


def provenance(results: Results) -> list[tuple[str, str]]:
    """Return what the numbers were made of, as (name, value)."""
    usable = [row for row in results.rows if row.usable]
    times = [row.started for row in usable if row.started] + [row.ended for row in usable if row.ended]
    machines = {machine for row in usable for machine in row.machines}
    found = [
        ("made with", f"hpcpar {hpcpar.__version__}"),
        ("planned with", _several(f"hpcpar {row.code}" for row in results.rows if row.code)),
        ("studies", _several(row.study for row in results.rows)),
        ("clusters", _several(f"{row.cluster} ({row.node_type} nodes)" for row in results.rows if row.cluster)),
        ("devices", _several(row.devices for row in usable if row.devices)),
        ("physical machines", str(len(machines)) if machines else ""),
        ("runs", f"{len(results.rows)} asked for, {len(usable)} with a result"),
        ("from", _date(min(times)) if times else ""),
        ("to", _date(max(times)) if times else ""),
        ("workload options", _several(row.workload_options for row in results.rows if row.workload_options != "{}")),
        ("data", _several(_data(row.data) for row in usable if row.data != "{}")),
        ("software", _several(_versions(row.versions) for row in usable if row.versions != "{}")),
    ]
    return [(name, value) for name, value in found if value]


def _several(values: Any) -> str:
    return "; ".join(sorted(set(values)))


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):  # a damaged clock
        return ""


def _data(text: str) -> str:
    facts: dict[str, Any] = msgspec.json.decode(text)
    return ", ".join(f"{name} {value}" for name, value in sorted(facts.items()))


def _versions(text: str) -> str:
    versions: dict[str, str] = msgspec.json.decode(text)
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
