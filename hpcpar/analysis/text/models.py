"""Models beside each other: what each reached and how long it took, where a collection has several workloads."""

from __future__ import annotations

from collections.abc import Sequence

from hpcpar.analysis.scaling.table import Cell, Table
from hpcpar.analysis.text.numbers import number, span
from hpcpar.analysis.text.sheet import Sheet, one_line

HEADS = [
    *("study", "model", "strategy", "nodes", "ranks", "runs", "metric", "value", "evaluation loss", "last loss"),
    *("training (s)", "evaluation (s)"),
]


def model_sheet(tables: Sequence[Table]) -> Sheet | None:
    """Return one row a model, strategy and size; None where fewer than two models were evaluated."""
    pairs = [(table, cell) for table in tables for cell in table.cells if cell.metric and cell.runs_ok]
    if len({table.key.workload for table, _ in pairs}) < 2:
        return None
    pairs.sort(key=lambda pair: (pair[0].key.study, pair[0].key.workload, pair[1].nodes, pair[1].series))
    return Sheet(HEADS, [[one_line(text) for text in _line(*pair)] for pair in pairs], {0, 1, 2, 6})


def _line(table: Table, cell: Cell) -> list[str]:
    return [
        *(table.key.study, table.key.workload, cell.series, str(cell.nodes), str(cell.ranks)),
        *(f"{cell.runs_ok}/{cell.runs_asked}", cell.metric.replace("_", " "), span(cell.metric_min, cell.metric_max)),
        *(span(cell.evaluation_loss_min, cell.evaluation_loss_max), span(cell.loss_last_min, cell.loss_last_max)),
        *(number(cell.train_s), number(cell.evaluation_s)),
    ]
