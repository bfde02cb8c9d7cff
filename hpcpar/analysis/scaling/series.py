"""Which runs belong on one curve, and what the curve is called.

A table holds what may be compared: one study, machine, workload and scaling. A series is one strategy with its options
over node counts. The resolved mesh is no part of it: that of ddp, or of pp=2,dp=-1, grows with the world on purpose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import msgspec

from hpcpar.analysis.rows.reduce import Row

K = TypeVar("K")


class TableKey(NamedTuple):
    """What all rows of a table have in common."""

    study: str
    cluster: str
    node_type: str
    workload: str
    workload_options: str
    variant: str
    scaling: str
    ranks_per_node: int
    cpus_per_rank: int

    @property
    def work(self) -> str:
        """The workload by the name that tells it from others of its study."""
        return f"{self.workload} ({self.variant})" if self.variant else self.workload


class Series(NamedTuple):
    """One curve: all runs of a strategy with its options, by node count."""

    label: str
    rows: dict[int, list[Row]]

    @property
    def strategy(self) -> str:
        """The strategy's bare name."""
        return next(iter(self.rows.values()))[0].strategy

    def usable(self, nodes: int) -> list[Row]:
        """Return the runs at this size that are evidence."""
        return [row for row in self.rows.get(nodes, []) if row.usable]


def load(row: Row) -> int | Fraction:
    """Return what the scaling holds fixed: the global batch, or for weak scaling the global batch over the ranks."""
    return Fraction(row.global_batch, row.ranks) if row.scaling == "weak" else row.global_batch


_SETTINGS: tuple[tuple[str, Callable[[Row], Any]], ...] = (
    ("load", load),
    ("steps", lambda row: row.steps_planned),
    ("seed", lambda row: row.seed),
    ("mesh", lambda row: row.mesh),
    ("micro_batch", lambda row: row.micro_batch),
)
"""Settings that have one value at each size of a series. Where runs of one size differ, they are different curves."""


def by_table(rows: Sequence[Row]) -> dict[TableKey, list[Row]]:
    """Sort rows into tables; rows whose spec could not be read belong to none."""
    return _group(
        [row for row in rows if row.nodes],
        lambda row: TableKey(**{name: getattr(row, name) for name in TableKey._fields}),
    )


def split(rows: Sequence[Row]) -> list[Series]:
    """Split the rows of one table into series, ordered by label."""
    groups = _group(rows, lambda row: (row.strategy, row.strategy_options))
    shown = _distinguishing(list(groups))
    series = []
    for (strategy, options), members in groups.items():
        for settings, runs in _unmix(members):
            words = [*_option_words(options, shown[strategy]), *settings]
            label = f"{strategy}[{'; '.join(words)}]" if words else strategy
            series.append(Series(label, dict(sorted(_group(runs, lambda row: row.nodes).items()))))
    return sorted(series, key=lambda one: one.label)


def option_labels(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Name every (strategy, options) of these rows by the options that tell it from others of the same strategy."""
    pairs = sorted({(row.strategy, row.strategy_options) for row in rows})
    shown = _distinguishing(pairs)
    words = {pair: _option_words(pair[1], shown[pair[0]]) for pair in pairs}
    return {pair: f"{pair[0]}[{'; '.join(words[pair])}]" if words[pair] else pair[0] for pair in pairs}


def name_variants(rows: Sequence[Row]) -> list[Row]:
    """Name every run by the workload options that tell it from others of its study."""
    named: list[Row] = []
    for members in _group(rows, lambda row: (row.study, row.workload)).values():
        shown = _distinguishing(sorted({(row.workload, row.workload_options) for row in members}))
        words = {
            options: "; ".join(_option_words(options, shown[members[0].workload]))
            for options in {row.workload_options for row in members}
        }
        named += [
            msgspec.structs.replace(row, variant=words[row.workload_options]) if words[row.workload_options] else row
            for row in members
        ]
    return named


def _unmix(rows: Sequence[Row]) -> Iterator[tuple[list[str], list[Row]]]:
    """Separate runs that differ in a setting at the same size: averaging them would mix two experiments."""
    for name, value in _SETTINGS:
        if any(len(_group(same_size, value)) > 1 for same_size in _group(rows, lambda row: row.nodes).values()):
            for setting, members in _group(rows, value).items():
                for words, runs in _unmix(members):
                    yield [f"{name}={setting}", *words], runs
            return
    yield [], list(rows)


def _distinguishing(pairs: list[tuple[str, str]]) -> dict[str, set[str]]:
    """Return, for each strategy, the options whose values differ between its series: only these go into labels."""
    by_strategy: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for strategy, options in pairs:
        by_strategy[strategy].append(msgspec.json.decode(options))
    shown: dict[str, set[str]] = {}
    for strategy, choices in by_strategy.items():
        names = {name for options in choices for name in options}
        shown[strategy] = {
            name for name in names if len({msgspec.json.encode(options.get(name)) for options in choices}) > 1
        }
    return shown


def _option_words(options: str, shown: set[str]) -> list[str]:
    """Print the options of a label; the mesh as asked is always there, since it is half of what `hybrid` means."""
    values: dict[str, Any] = msgspec.json.decode(options)
    mesh = values.get("mesh")
    words = [mesh] if isinstance(mesh, str) and mesh else []
    plain = {name: values.get(name) for name in sorted(shown - {"mesh"})}
    return words + [
        f"{name}={v if isinstance(v, str) else msgspec.json.encode(v).decode()}" for name, v in plain.items()
    ]


def _group(rows: Sequence[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    groups: dict[K, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)
