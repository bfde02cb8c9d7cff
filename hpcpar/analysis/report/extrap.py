"""Points for Extra-P, which fits scaling models of its own: JSON Lines, one value of one run a line.

The format is that of Extra-P's own reader (extrap/fileio/file_reader/jsonlines_file_reader.py, version 4.2.5): `params`
(every line the same names), `callpath`, `metric`, `value`. Its authors ask that strong scaling be modelled as cost,
ranks x time, since its terms grow and never fall.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpcpar.analysis.scaling.series import Series, split
from hpcpar.analysis.scaling.table import Table

LEAST_SIZES = 5
"""Sizes that Extra-P asks for; with fewer it warns."""


def lines(table: Table) -> str:
    """Return the file of a table; "" where no run of it has a time.

    Extra-P wants every call path at every point, so series that lack a size of the others are left out there: what is
    exported are the sizes that all series with a time have in common.
    """
    import json

    series = [one for one in split(table.rows) if any(one.usable(nodes) for nodes in one.rows)]
    sizes = [{one.usable(n)[0].ranks for n in one.rows if one.usable(n)} for one in series]
    common = set.intersection(*sizes) if sizes else set()
    # ASCII: Extra-P reads a file in whatever encoding the machine has.
    return "".join(json.dumps(line) + "\n" for one in series for line in _of_series(one, common, table.key.scaling))


def _of_series(series: Series, ranks: set[int], scaling: str) -> Iterator[dict[str, Any]]:
    path = series.label.replace("->", "-")  # what Extra-P splits call paths at
    for nodes in sorted(series.rows):
        for row in series.usable(nodes):
            if row.ranks not in ranks or row.step_time_s is None:
                continue
            point = {"params": {"ranks": row.ranks}, "callpath": path}
            yield {**point, "metric": "step_time_s", "value": row.step_time_s}
            if scaling == "strong":
                yield {**point, "metric": "rank_seconds_per_step", "value": row.ranks * row.step_time_s}
