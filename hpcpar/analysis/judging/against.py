"""Which arms are compared: the strategies of a table at equal nodes, or what two collections have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpcpar.analysis.judging import comparability
from hpcpar.analysis.judging.comparisons import Arms, ComparisonSet, compare
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.series import Series, TableKey, by_table, option_labels, split
from hpcpar.analysis.scaling.table import Table
from hpcpar.errors import InputError, Problem, nearest

_FLAG = "--reference"
_SCALING = {"strong": "strong scaling", "weak": "weak scaling"}


def strategies(tables: Sequence[Table], margins: Mapping[str, float], reference: str = "") -> tuple[ComparisonSet, ...]:
    """Compare the strategies of each table with one of them, at equal nodes.

    Args:
        tables: scaling tables; those of one series have nothing to compare.
        margins: metric to margin.
        reference: a strategy or the label of a series; "" for the one that the study names first.

    Raises:
        InputError: no series is called so, or several of one table are.
    """
    split_tables = [(table, split(table.rows)) for table in tables]
    _check(reference, [series for _, series in split_tables])
    found = [_of_table(table, series, margins, reference) for table, series in split_tables]
    return tuple(one for one in found if one is not None)


def _check(reference: str, tables: Sequence[Sequence[Series]]) -> None:
    if not reference:
        return
    matches = [[one for one in table if _is_called(one, reference)] for table in tables]
    if not any(matches):
        known = sorted({one.label for table in tables for one in table})
        raise InputError(Problem(_FLAG, f"no strategy is called {reference}", nearest(reference, known)))
    for found in matches:
        if len(found) > 1:
            labels = ", ".join(f"'{one.label}'" for one in found)
            raise InputError(Problem(_FLAG, f"{reference} means several series", f"one of: {labels}"))


def _is_called(series: Series, reference: str) -> bool:
    return reference in (series.label, series.strategy)


def _of_table(
    table: Table, series: Sequence[Series], margins: Mapping[str, float], reference: str
) -> ComparisonSet | None:
    if reference:
        chosen = next((one for one in series if _is_called(one, reference)), None)
    else:
        chosen = min(series, key=lambda one: (min(r.order for rows in one.rows.values() for r in rows), one.label))
    if chosen is None or len(series) < 2:
        return None
    arms = [
        Arms(one.label, f"{chosen.label}@{nodes}", nodes, chosen.rows.get(nodes, ()), rows, _factors(chosen, one))
        for one in series
        if one is not chosen
        for nodes, rows in one.rows.items()
    ]
    comparisons, family = compare(arms, margins)
    where = f"{table.key.work} on {table.key.cluster} ({table.key.node_type} nodes)"
    kind = _SCALING.get(table.key.scaling, "undeclared scaling")
    return ComparisonSet(
        key=table.key,
        baseline=chosen.label,
        title=f"Strategies against {chosen.label} at equal nodes: {where}, {kind}, study {table.key.study}",
        facts=(),
        sample_unit=table.rows[0].sample_unit,
        comparisons=comparisons,
        family=family,
    )


def _factors(chosen: Series, one: Series) -> frozenset[str]:
    """Let one strategy be compared with itself in another precision; between two it would be a second difference."""
    return frozenset({"precision"} if one.strategy == chosen.strategy else ())


def collections(rows: Sequence[Row], others: Sequence[Row], margins: Mapping[str, float]) -> tuple[ComparisonSet, ...]:
    """Compare what was collected with another collection: two dates, code versions, or clusters.

    Args:
        rows: all rows of what is judged.
        others: all rows of the baseline.
        margins: metric to margin.

    Returns:
        A set for each workload and layout that one of them has; what only one has is in it, too.
    """
    sides = [_by_work(others), _by_work(rows)]
    labels = option_labels([row for row in (*rows, *others) if row.nodes])
    works = sorted({work for side in sides for work in side})
    return tuple(_of_work(work, sides[0].get(work, []), sides[1].get(work, []), labels, margins) for work in works)


_Work = tuple[str, str, str, int]


def _by_work(rows: Sequence[Row]) -> dict[_Work, list[Row]]:
    found: dict[_Work, list[Row]] = {}
    for key, members in by_table(rows).items():
        work = (key.workload, key.workload_options, key.scaling, key.ranks_per_node)
        found.setdefault(work, []).extend(members)
    return found


def _of_work(
    work: _Work,
    others: Sequence[Row],
    rows: Sequence[Row],
    labels: Mapping[tuple[str, str], str],
    margins: Mapping[str, float],
) -> ComparisonSet:
    sides = [_by_place(others), _by_place(rows)]
    places = sorted({place for side in sides for place in side})
    several = len({place[3] for place in places}) > 1 and work[2] == "strong"
    arms = []
    for place in places:
        strategy, options, nodes, batch = place
        label = labels[strategy, options] + (f" (global batch {batch})" if several else "")
        base, mine = (side.get(place, []) for side in sides)
        refusal = _mixed(base, mine)
        arms.append(Arms(label, f"{label}@{nodes}", nodes, base, mine, comparability.FACTORS, refusal))
    comparisons, family = compare(arms, margins)
    first = (*rows, *others)[0]
    studies = [" and ".join(sorted({row.study for row in side})) or "nothing" for side in (rows, others)]
    return ComparisonSet(
        key=TableKey(**{name: getattr(first, name) for name in TableKey._fields}),
        baseline=studies[1],
        title=f"{work[0]}: {studies[0]} against {studies[1]}, {_SCALING.get(work[2], 'undeclared scaling')}",
        facts=tuple(_facts(others, rows)),
        sample_unit=first.sample_unit,
        comparisons=comparisons,
        family=family,
    )


_Place = tuple[str, str, int, int]


def _by_place(rows: Sequence[Row]) -> dict[_Place, list[Row]]:
    found: dict[_Place, list[Row]] = {}
    for row in rows:
        found.setdefault((row.strategy, row.strategy_options, row.nodes, row.global_batch), []).append(row)
    return found


def _mixed(base: Sequence[Row], mine: Sequence[Row]) -> str:
    """Refuse to pool runs of several studies: which of them would the verdict be about?"""
    for where, rows in (("the baseline", base), ("this collection", mine)):
        studies = sorted({row.study for row in rows})
        if len(studies) > 1:
            return f"{where} has it in several studies ({', '.join(studies)}): name one of them"
    return ""


def _facts(others: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    base, mine = ([row for row in side if row.usable] for side in (others, rows))
    if not base or not mine:
        return ["Only one side has runs with a result: nothing is compared."]
    found = comparability.differing(base, mine)
    if not found:
        return ["Machine, code and software are the same on both sides: what differs is when it ran."]
    lines = [f"What differs: {'; '.join(found)}."]
    return lines + (["Several things differ: the verdicts do not tell which of them did it."] if len(found) > 1 else [])
