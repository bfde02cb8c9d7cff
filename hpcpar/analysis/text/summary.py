"""What a person acts on, before every table: runs that are missing, findings that make numbers wrong, verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from hpcpar.analysis.judging.comparisons import Comparison, ComparisonSet
from hpcpar.analysis.judging.metrics import METRICS
from hpcpar.analysis.judging.verdicts import Word
from hpcpar.analysis.text.headlines import headlines
from hpcpar.analysis.text.numbers import estimate, plural

if TYPE_CHECKING:
    from hpcpar.analysis.results import Results
    from hpcpar.analysis.rows.row import Row

MOST = 8
"""Lines of one kind; how many more there are is said."""
_ORDER = ("bad", "open", "good", "plain")
_WORDS = (Word.DETERIORATES, Word.INCONCLUSIVE, Word.IMPROVES, Word.NO_CHANGE)
Kind = Literal["bad", "open", "good", "plain"]
_KINDS: dict[Word, Kind] = {Word.DETERIORATES: "bad", Word.INCONCLUSIVE: "open", Word.IMPROVES: "good"}


class Line(NamedTuple):
    """One sentence, and what kind of news it is."""

    kind: Kind
    text: str


def summary(results: Results, most: int = MOST) -> list[Line]:
    """Return the sentences that stand before every table, at most `most` of a kind."""
    missing = [Line("bad", _missing(results))] if results.problems else []
    invalid = [Line("bad", f"{one.name}: {one.where}: {one.what}") for one in results.lint if one.severity == "invalid"]
    verdicts = [line for one in results.judged for line in _verdicts(one)]
    verdicts.sort(key=lambda line: _ORDER.index(line.kind))
    heads = [Line("plain", line) for table in results.tables for line in headlines(table, results.efficiency_target)]
    heads += [Line("plain", one.sentence) for one in results.crossovers if one.shown]
    shown: list[Line] = []
    for lines, words in ((missing, ""), (invalid, "finding"), (heads, "result"), (verdicts, "verdict")):
        shown += lines[:most]
        if len(lines) > most:
            shown.append(Line("plain", f"... and {plural(len(lines) - most, 'more ' + words)} below."))
    return shown


def _verdicts(one: ComparisonSet) -> Iterator[Line]:
    """Yield a line for each arm, metric and verdict, with the sizes at which it holds."""
    found: dict[tuple[str, str, Word], list[Comparison]] = {}
    for cell in one.comparisons:
        if cell.verdict in _WORDS and not _said_already(one, cell):
            found.setdefault((cell.strategy, cell.metric, cell.verdict), []).append(cell)
    metrics = {metric.name: metric.words for metric in METRICS}
    for (strategy, metric, word), cells in found.items():
        sizes = ", ".join(f"on {plural(cell.nodes, 'node')}{_ratio(cell)}" for cell in cells)
        more = max((cell.more_repeats or 0 for cell in cells), default=0)
        repeats = f"; up to {plural(more, 'more repeat')} would settle it" if word == Word.INCONCLUSIVE and more else ""
        text = f"{one.key.workload}: {strategy} against {one.baseline}, {metrics[metric]}: {word} ({sizes}){repeats}."
        yield Line(_KINDS.get(word, "plain"), text)


def _ratio(cell: Comparison) -> str:
    return "" if cell.verdict == Word.NO_CHANGE else f" x{estimate(cell.ratio)}"


def _said_already(one: ComparisonSet, cell: Comparison) -> bool:
    """Say whether it is the other side of a step time: at one batch, throughput says the same once more."""
    return cell.metric == "throughput" and any(
        other.metric == "time" and (other.strategy, other.nodes) == (cell.strategy, cell.nodes)
        and other.verdict == cell.verdict
        for other in one.comparisons
    )  # fmt: skip


def _why(row: Row) -> str:
    """Name the cause of a failure; a run that is done has none, and lacks only a time."""
    if row.state != "done":
        return row.cause or row.state
    return "with too few steps" if row.too_few_steps else "done without a time"


def _missing(results: Results) -> str:
    causes: dict[str, int] = {}
    for row in results.problems:
        word = _why(row)
        causes[word] = causes.get(word, 0) + 1
    told = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items(), key=lambda one: (-one[1], one[0])))
    return f"{plural(len(results.problems), 'run')} of {len(results.rows)} without a result: {told}."
