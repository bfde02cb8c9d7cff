"""Whether two arms may be compared, before anybody looks at their numbers: what must be equal, and what is not.

Nothing is dropped where the answer is no: the comparison stays in its table, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from hpcpar.analysis.metrics import Metric
from hpcpar.analysis.numbers import plural
from hpcpar.analysis.reduce import Row


class Condition(NamedTuple):
    """Something that must be equal on both sides."""

    name: str
    words: str
    value: Callable[[Row], Any]


def _software(row: Row) -> str:
    versions: dict[str, str] = msgspec.json.decode(row.versions)
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _data(row: Row) -> str:
    facts: dict[str, Any] = msgspec.json.decode(row.data)
    digest = str(facts.get("sha256", ""))[:12]
    return " ".join(filter(None, (str(facts.get("name", "")), digest)))


def _precision(row: Row) -> str:
    """Return what a strategy was told of precision; one that cannot be told computes in fp32."""
    options: dict[str, Any] = msgspec.json.decode(row.strategy_options)
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
    Condition("software", "software", _software),
)
FACTORS = frozenset({"cluster", "node type", "device", "code", "software"})
"""What may differ where two collections are compared: it is what the comparison is about, and is named with it."""


def reasons(
    baseline: Sequence[Row], compared: Sequence[Row], metric: Metric, factors: frozenset[str] = frozenset()
) -> list[str]:
    """Say why these runs may not be compared in this metric; an empty list where they may.

    Args:
        baseline: runs with a result, at least one.
        compared: likewise.
        metric: what is compared.
        factors: names of conditions that may differ.
    """
    found = [
        f"{condition.words}: {_several(compared, condition)} here, {_several(baseline, condition)} there"
        for condition in CONDITIONS
        if condition.name not in factors and _values(baseline, condition) != _values(compared, condition)
    ]
    batches = [sorted({row.global_batch for row in rows}) for rows in (compared, baseline)]
    if metric.needs_equal_batch and batches[0] != batches[1]:
        better = "time_to_target" if metric.quality else "throughput"
        here, there = (", ".join(map(str, sizes)) for sizes in batches)
        found.append(f"global batch {here} here, {there} there: compare {better}")
    return found + [reason for rows in (baseline, compared) for reason in disturbed(rows)]


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
        f"{condition.words}: {_several(compared, condition)} here, {_several(baseline, condition)} there"
        for condition in CONDITIONS
        if condition.name in FACTORS and _values(baseline, condition) != _values(compared, condition)
    ]


def _values(rows: Sequence[Row], condition: Condition) -> set[Any]:
    return {condition.value(row) for row in rows}


def _several(rows: Sequence[Row], condition: Condition) -> str:
    return " and ".join(sorted(map(str, _values(rows, condition)))) or "nothing"
