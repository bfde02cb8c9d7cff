"""Whether two arms may be compared, before anybody looks at their numbers: what must be equal, and what is not.

Nothing is dropped where the answer is no: the comparison stays in its table, with the reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from hpcpar.analysis.judging.metrics import Metric
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.text.numbers import plural


@functools.lru_cache(maxsize=1024)
def _decoded(text: str) -> dict[str, Any]:
    """Decode what many runs have in common once."""
    found: dict[str, Any] = msgspec.json.decode(text)
    return found


class Condition(NamedTuple):
    """Something that must be equal on both sides."""

    name: str
    words: str
    value: Callable[[Row], Any]

    def differs(self, baseline: Sequence[Row], compared: Sequence[Row]) -> str:
        """Say what is here and what is there, where it is not the same; else ""."""
        sides = [{self.value(row) for row in rows} for rows in (compared, baseline)]
        if sides[0] == sides[1]:
            return ""
        here, there = (" and ".join(sorted(map(str, values))) or "nothing" for values in sides)
        return f"{self.words}: {here} here, {there} there"

    def mixture(self, rows: Sequence[Row]) -> str:
        """Say which values there are among these runs, where there is more than one; else ""."""
        values = sorted({str(self.value(row)) for row in rows})
        return " and ".join(values) if len(values) > 1 else ""


class Software(Condition):
    """The versions of the packages that both sides have: what one side alone needs is part of its strategy."""

    def differs(self, baseline: Sequence[Row], compared: Sequence[Row]) -> str:
        """Name the packages that differ, and no others."""
        here, there = ([_decoded(row.versions) for row in rows] for rows in (compared, baseline))
        names = [name for name in versions(here) if name in versions(there)]
        apart = [name for name in names if versions(here)[name] != versions(there)[name]]
        if not apart:
            return ""
        sides = [", ".join(f"{name} {' and '.join(versions(rows)[name])}" for name in apart) for rows in (here, there)]
        return f"{self.words}: {sides[0]} here, {sides[1]} there"

    def mixture(self, rows: Sequence[Row]) -> str:
        """Name the packages of which there is more than one version."""
        found = versions([_decoded(row.versions) for row in rows])
        return ", ".join(f"{name} {' and '.join(numbers)}" for name, numbers in found.items() if len(numbers) > 1)


def versions(found: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Return the versions of every package that any of these runs has."""
    names = sorted({name for one in found for name in one})
    return {name: sorted({one[name] for one in found if name in one}) for name in names}


def _data(row: Row) -> str:
    facts = _decoded(row.data)
    digest = str(facts.get("sha256", ""))[:12]
    return " ".join(filter(None, (str(facts.get("name", "")), digest)))


def _precision(row: Row) -> str:
    """Return what a strategy was told of precision; one that cannot be told computes in fp32."""
    options = _decoded(row.strategy_options)
    return str(options.get("precision", "fp32"))


CONDITIONS = (
    Condition("workload", "workload", lambda row: row.workload),
    Condition("options", "workload options", lambda row: row.workload_options),
    Condition("data", "data", _data),
    Condition("precision", "precision", _precision),
    Condition("scaling", "scaling", lambda row: row.scaling),
    Condition("ranks", "ranks", lambda row: row.ranks),
    Condition("layout", "ranks a node", lambda row: row.ranks_per_node),
    Condition("cpus", "CPUs a rank", lambda row: row.cpus_per_rank),
    Condition("steps", "steps", lambda row: row.steps_planned),
    Condition("window", "warm-up steps", lambda row: row.warmup_steps),
    Condition("cluster", "cluster", lambda row: row.cluster),
    Condition("node type", "node type", lambda row: row.node_type),
    Condition("device", "devices", lambda row: row.devices),
    Condition("code", "hpcpar that planned it", lambda row: row.code),
    Software("software", "software", lambda row: row.versions),
)
FACTORS = frozenset({"cluster", "node type", "device", "code", "software"})
"""What may differ where two collections are compared: it is what the comparison is about, and is named with it."""


def unlike(
    baseline: Sequence[Row], compared: Sequence[Row], factors: frozenset[str] = frozenset()
) -> tuple[list[str], list[str]]:
    """Say why these runs may not be compared, whatever the metric.

    Args:
        baseline: runs with a result, at least one.
        compared: likewise.
        factors: names of conditions that may differ.

    Returns:
        In what they are not alike, and what else spoiled the numbers of either.
    """
    differ = [
        words
        for condition in CONDITIONS
        if condition.name not in factors and (words := condition.differs(baseline, compared))
    ]
    return differ, [reason for rows in (baseline, compared) for reason in disturbed(rows)]


def other_batch(baseline: Sequence[Row], compared: Sequence[Row], metric: Metric) -> list[str]:
    """Say why runs of different global batches may not be compared in this metric."""
    batches = [sorted({row.global_batch for row in rows}) for rows in (compared, baseline)]
    if not metric.needs_equal_batch or batches[0] == batches[1]:
        return []
    better = "time_to_target" if metric.quality else "throughput"
    here, there = (", ".join(map(str, sizes)) for sizes in batches)
    return [f"global batch {here} here, {there} there: compare {better}"]


def reasons(
    baseline: Sequence[Row], compared: Sequence[Row], metric: Metric, factors: frozenset[str] = frozenset()
) -> list[str]:
    """Say why these runs may not be compared in this metric; an empty list where they may. See `unlike`."""
    differ, spoiled = unlike(baseline, compared, factors)
    return [*differ, *other_batch(baseline, compared, metric), *spoiled]


def disturbed(rows: Sequence[Row]) -> list[str]:
    """Say what else than the strategy may have set the numbers of these runs."""
    found = []
    for words, spoiled in (("oversubscribed", "oversubscribed"), ("shared_with", "shared a machine with other runs")):
        count = sum(bool(getattr(row, words)) for row in rows)
        found += [f"{plural(count, 'run')} of {rows[0].strategy} {spoiled}"] if count else []
    return found


def differing(baseline: Sequence[Row], compared: Sequence[Row]) -> list[str]:
    """Say which factors differ between two collections: "code: 0.2.0 here, 0.1.0 there"."""
    return [
        words
        for condition in CONDITIONS
        if condition.name in FACTORS and (words := condition.differs(baseline, compared))
    ]
