"""Comparisons for people and for machines: what changed by how much, and the verdict on each model and metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from hpcpar.analysis.judging.comparisons import Comparison, ComparisonSet
from hpcpar.analysis.judging.metrics import METRICS, Metric
from hpcpar.analysis.judging.verdicts import ALPHA, Word
from hpcpar.analysis.scaling.series import TableKey
from hpcpar.analysis.text.numbers import NOTHING, estimate, number, plural
from hpcpar.analysis.text.sheet import Sheet, one_line
from hpcpar.analysis.text.tables import flat_record

ESTIMATES = ("ratio", "change_percent")
_METRICS = {metric.name: metric for metric in METRICS}
_SILENT = (Word.NOT_COMPARABLE, Word.NOT_ENOUGH_RUNS)
_FIRST = (Word.INCONCLUSIVE, Word.DETERIORATES, Word.IMPROVES, Word.NO_CHANGE)
"""The order of sentences: what is not settled must not be lost below what is."""


def change_sheet(one: ComparisonSet) -> Sheet:
    """Lay out by how much each arm changes each metric; positive percentages are good."""
    metrics = _metrics(one)
    heads = ["strategy", "nodes", "runs", *(f"{metric.change} (%)" for metric in metrics)]
    body = []
    for (strategy, nodes), cells in _by_arm(one).items():
        runs = max(cells.values(), key=lambda cell: (cell.runs_baseline, cell.runs_strategy))
        shown = [estimate(cells[m.name].change_percent) if m.name in cells else NOTHING for m in metrics]
        body.append([strategy, str(nodes), f"{runs.runs_strategy} / {runs.runs_baseline}", *shown])
    return Sheet(heads, [[one_line(text) for text in line] for line in body], {0})


def verdict_sheet(sets: Sequence[ComparisonSet]) -> Sheet:
    """Lay out the verdicts: a row a model, strategy and size, a column a metric."""
    metrics = [metric for metric in METRICS if any(metric in _metrics(one) for one in sets)]
    heads = ["model", "strategy", "against", "nodes", *(metric.words for metric in metrics)]
    body = []
    for one in sets:
        for (strategy, nodes), cells in _by_arm(one).items():
            shown = [_cell(cells[m.name]) if m.name in cells else NOTHING for m in metrics]
            body.append([one.key.work, strategy, one.baseline, str(nodes), *shown])
    return Sheet(heads, [[one_line(text) for text in line] for line in body], set(range(len(heads))) - {3})


def _metrics(one: ComparisonSet) -> list[Metric]:
    names = {cell.metric for cell in one.comparisons}
    return [metric for metric in METRICS if metric.name in names]


def _by_arm(one: ComparisonSet) -> dict[tuple[str, int], dict[str, Comparison]]:
    arms: dict[tuple[str, int], dict[str, Comparison]] = {}
    for cell in one.comparisons:
        arms.setdefault((cell.strategy, cell.nodes), {})[cell.metric] = cell
    return arms


def _cell(cell: Comparison) -> str:
    if cell.verdict in _SILENT:
        return str(cell.verdict)
    return f"{verdict_words(cell)}, {_ratio(cell)}"


def verdict_words(cell: Comparison) -> str:
    """Return the verdict with what belongs to it: "strongly improves", "inconclusive (needs 4 more repeats)"."""
    if cell.verdict == Word.INCONCLUSIVE:
        if cell.more_repeats is None:
            return "inconclusive (no sensible number of repeats settles it)"
        return f"inconclusive (needs {plural(cell.more_repeats, 'more repeat')})"
    return f"strongly {cell.verdict}" if cell.strongly and cell.basis != "deterministic" else str(cell.verdict)


def _ratio(cell: Comparison) -> str:
    words = f"x{estimate(cell.ratio)}"
    return f"{words}, {cell.basis}" if cell.basis == "deterministic" else words


def facts(one: ComparisonSet) -> list[str]:
    """Return what a reader needs beside the verdicts: baseline, margins, adjustment."""
    shown = _metrics(one)
    margins = {cell.metric: cell.margin for cell in one.comparisons}
    said = ", ".join(f"{metric.words} {100 * margins[metric.name]:g} %" for metric in shown)
    lines = [*one.facts, f"Baseline: {one.baseline}, on the same number of nodes. Percentages are positive where good."]
    lines += [f"Margins within which a ratio is no change: {said}."] if shown else []
    if one.family:
        lines.append(
            f"{one.family} tested differences in this table; without adjustment about {number(ALPHA * one.family, 2)} "
            "of them would be called wrongly if nothing differed. Verdicts are adjusted (Holm); intervals are not."
        )
    return lines + not_compared(one)


def not_compared(one: ComparisonSet) -> list[str]:
    """Say of every comparison without a verdict why, a reason once."""
    why: dict[tuple[str, str], list[str]] = {}
    for cell in one.comparisons:
        if cell.verdict in _SILENT:
            place = f"{cell.strategy}@{cell.nodes}"
            places = why.setdefault((str(cell.verdict), cell.reason), [])
            words = f"{place} ({_METRICS[cell.metric].words})"
            places.append(words)
    return [f"{word.capitalize()}: {', '.join(places)}: {reason}." for (word, reason), places in why.items()]


def sentences(one: ComparisonSet) -> list[str]:
    """Return a sentence for each verdict, the unsettled ones first."""
    settled = [cell for cell in one.comparisons if cell.verdict not in _SILENT]
    return [_sentence(one, cell) for word in _FIRST for cell in settled if cell.verdict == word]


def _sentence(one: ComparisonSet, cell: Comparison) -> str:
    metric, key = _METRICS[cell.metric], one.key
    where = f"On {key.cluster}, {key.work}, {plural(cell.nodes, 'node')}, {key.scaling or 'undeclared'} scaling"
    runs = f"{cell.runs_strategy} and {cell.runs_baseline} {'seeds' if metric.quality else 'runs'}"
    evidence = f"x{estimate(cell.ratio)}, {runs}, {cell.basis}, margin {100 * cell.margin:g} %"
    doing = {
        Word.IMPROVES: f"improves {metric.words} against",
        Word.DETERIORATES: f"deteriorates {metric.words} against",
        Word.NO_CHANGE: f"does not change {metric.words} against",
        Word.INCONCLUSIVE: f"may or may not change {metric.words} against",
    }[cell.verdict]
    adverb = "strongly " if cell.strongly and cell.basis != "deterministic" else ""
    more = f"; {verdict_words(cell)}" if cell.verdict == Word.INCONCLUSIVE else ""
    why = f"; {cell.reason}" if cell.reason else ""
    flags = f"; {'; '.join(cell.flags)}" if cell.flags else ""
    return f"{where}: {cell.strategy} {adverb}{doing} {cell.baseline}: {evidence}{more}{why}{flags}."


def record_names() -> list[str]:
    """Return the names of a flat record in order; docs/verdicts.md defines them."""
    names = list(TableKey._fields)
    for field in msgspec.structs.fields(Comparison):
        names += [field.name, *([f"{field.name}_low", f"{field.name}_high"] if field.name in ESTIMATES else [])]
    return names


def records(sets: Iterable[ComparisonSet]) -> list[dict[str, Any]]:
    """Return every comparison as a flat record in full precision."""
    return [{**one.key._asdict(), **flat_record(cell, ESTIMATES)} for one in sets for cell in one.comparisons]


def document(one: ComparisonSet) -> dict[str, Any]:
    """Return a set with everything that must stand beside it, for JSON."""
    return {
        "title": one.title,
        "baseline": one.baseline,
        "facts": facts(one),
        "family": one.family,
        "sentences": sentences(one),
        "rows": records([one]),
    }
