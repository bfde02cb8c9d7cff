"""What is printed, in its order: each table with what must stand beside it, whatever prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from hpcpar.analysis.judging import fits, support
from hpcpar.analysis.judging.comparisons import ComparisonSet
from hpcpar.analysis.scaling import foreseen
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text import law_tables, split_tables, tables, verdict_tables
from hpcpar.analysis.text.captions import brief_facts, facts, title
from hpcpar.analysis.text.cost_table import cost_facts, cost_sheet
from hpcpar.analysis.text.headlines import headlines
from hpcpar.analysis.text.models import model_sheet
from hpcpar.analysis.text.numbers import plural
from hpcpar.analysis.text.sheet import Sheet
from hpcpar.analysis.text.summary import MOST, summary
from hpcpar.analysis.text.verdict_tables import not_compared

if TYPE_CHECKING:
    from hpcpar.analysis.results import Results


class Page(NamedTuple):
    """A title, sentences before a table, the table, sentences after it."""

    title: str
    before: list[str]
    sheet: Sheet | None
    after: list[str]
    last: list[str]
    scaling: bool = False
    """It is that of a scaling table, in their order."""


def pages(results: Results, *, narrow: bool) -> list[Page]:
    """Return everything that is printed; `narrow` for a terminal: what a person acts on, the rest is in files."""
    return list(_brief(results) if narrow else _pages(results))


def _brief(results: Results) -> Iterator[Page]:
    said = [line.text for line in summary(results)]
    if said:
        yield Page("Summary", said, None, [], [])
    if results.against:
        differs = [fact for one in results.against for fact in one.facts]
        yield Page("Against the other collection", differs, verdict_tables.verdict_sheet(results.against), [], [])
    yield from _supports(results)
    for table in results.tables:
        yield Page(title(table), brief_facts(table), tables.sheet(table, narrow=True), tables.remarks(table), [])
    silent = Counter(line for one in (*results.against, *results.comparisons) for line in not_compared(one))
    if silent:
        told = [f"In {count} tables: {line}" if count > 1 else line for line, count in silent.items()]
        yield Page("No verdict", _first(told), None, [], [])
    if results.sized_up:
        yield _sized_up(results)
    minor = [
        f"{one.severity}: {one.name}: {one.where}: {one.what}" for one in results.lint if one.severity != "invalid"
    ]
    if minor:
        yield Page("Findings", _first(minor), None, [], [])
    yield from _problems(results)
    yield Page("How it was computed, laws, and every verdict in words: hpcpar collect --out report", [], None, [], [])


def _first(lines: list[str]) -> list[str]:
    """Return as many lines as a terminal shall have, and say how many more there are."""
    more = [f"... and {len(lines) - MOST} more: hpcpar collect --format md"] if len(lines) > MOST else []
    return [*lines[:MOST], *more]


def _pages(results: Results) -> Iterator[Page]:
    if results.against:
        yield from _comparisons(results.against, "Against the other collection")
    yield from _supports(results)
    for table in results.tables:
        yield _scaling(table, results)
    models = model_sheet(results.tables)
    if models is not None:
        said = [
            "Spans are smallest to largest over the runs. Losses and metrics of different models are not comparable."
        ]
        yield Page("Models", said, models, [], [])
    yield from _comparisons(results.comparisons, "Verdicts")
    yield from _laws(results)
    if results.sized_up:
        yield _sized_up(results)
    yield from _taken_apart(results)
    if results.foreseen:
        said = [foreseen.summary(results.foreseen)]
        yield Page("Predicted and measured", said, foreseen.sheet(results.foreseen), [], [])
    if results.costed:
        yield Page("Cost", cost_facts(results.costed), cost_sheet(results.costed), [], [])
    if results.lint:
        body = [[one.severity, one.name, one.where, one.what, one.fix] for one in results.lint]
        heads = ["", "finding", "where", "what", "what to do"]
        yield Page("Findings", [], Sheet(heads, body, set(range(5))), [], [])
    yield from _problems(results)


def _taken_apart(results: Results) -> Iterator[Page]:
    """Yield where efficiency, memory and the time of pipelines go."""
    if results.factored:
        yield Page(
            "Efficiency factors", split_tables.FACTORS_SAID, split_tables.factors_sheet(results.factored), [], []
        )
    if results.pipelined:
        said = split_tables.bubble_facts(results.pipelined)
        yield Page("Pipelines", said, split_tables.bubble_sheet(results.pipelined), [], [])
    held = split_tables.memory_sheet(results.tables)
    if held is not None:
        yield Page("Memory of a rank", [split_tables.MEMORY_SAID], held, [], [])


def _supports(results: Results) -> Iterator[Page]:
    if results.supports:
        heading = "Parallel support of estimators: claimed and measured"
        yield Page(heading, [], support.sheet(results.supports), list(support.FACTS), [])
    if results.fits:
        yield Page("What a fit takes", [], fits.sheet(results.fits), list(fits.FACTS), [])


def _sized_up(results: Results) -> Page:
    said = "The machine stays, the global batch grows m times. Size-up is T(m) / T(1), at most m where all is well."
    return Page("Size-up", [said], law_tables.sizeup_sheet(results.sized_up), [], [])


def _problems(results: Results) -> Iterator[Page]:
    if results.problems:
        heading = f"Without a result: {plural(len(results.problems), 'run')} of {len(results.rows)}"
        yield Page(heading, [], tables.problem_sheet(results.problems), [], [])
    failed = split_tables.failure_sheet(results.problems)
    if failed is not None:
        yield Page("Failures by cause", [], failed, [], [])
    if results.notes:
        yield Page("Notes", list(results.notes), None, [], [])


def _scaling(table: Table, results: Results) -> Page:
    said = headlines(table, results.efficiency_target)
    said += [one.sentence for one in results.crossovers if one.key == table.key]
    return Page(title(table), facts(table), tables.sheet(table), [], said, scaling=True)


def _comparisons(sets: tuple[ComparisonSet, ...], heading: str) -> Iterator[Page]:
    """Yield for each set what changed by how much, then the verdicts of all of them in one table."""
    for one in sets:
        sentences = verdict_tables.sentences(one)
        yield Page(one.title, verdict_tables.facts(one), verdict_tables.change_sheet(one), sentences, [])
    if sets:
        yield Page(heading, [], verdict_tables.verdict_sheet(sets), [], [])


def _laws(results: Results) -> Iterator[Page]:
    """Yield the laws; where there is none at all, one line instead of a table of reasons."""
    found = results.fitted
    if not found:
        return
    if any(not law.reason for law in found):
        yield Page("Laws", law_tables.law_facts(found), law_tables.law_sheet(found), [], [])
        return
    reasons = sorted({f"{law.law}, {law.series}: {law.reason}" for law in found})
    yield Page("Laws", reasons, None, [], [])
