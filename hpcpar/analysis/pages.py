"""What is printed, in its order: each table with what must stand beside it, whatever prints it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from hpcpar.analysis import foreseen, law_tables, support, tables, verdict_tables
from hpcpar.analysis.captions import facts, title
from hpcpar.analysis.comparisons import ComparisonSet
from hpcpar.analysis.headlines import headlines
from hpcpar.analysis.models import model_sheet
from hpcpar.analysis.numbers import plural
from hpcpar.analysis.scaling import Table
from hpcpar.analysis.sheet import Sheet

if TYPE_CHECKING:
    from hpcpar.analysis.results import Results


class Page(NamedTuple):
    """A title, sentences before a table, the table, sentences after it."""

    title: str
    before: list[str]
    sheet: Sheet | None
    after: list[str]
    last: list[str]


def pages(results: Results, *, narrow: bool) -> list[Page]:
    """Return everything that is printed; `narrow` for a terminal, which has no room for all."""
    return list(_pages(results, narrow))


def _pages(results: Results, narrow: bool) -> Iterator[Page]:
    if results.against:
        yield from _comparisons(results.against, "Against the other collection", narrow)
    if results.supports:
        heading = "Parallel support of estimators: claimed and measured"
        yield Page(heading, [], support.sheet(results.supports), list(support.FACTS), [])
    for table in results.tables:
        yield _scaling(table, results, narrow)
    models = model_sheet(results.tables)
    if models is not None:
        said = [
            "Spans are smallest to largest over the runs. Losses and metrics of different models are not comparable."
        ]
        yield Page("Models", said, models, [], [])
    yield from _comparisons(results.comparisons, "Verdicts", narrow)
    yield from _laws(results)
    if results.sized_up:
        said = [
            "The machine stays, the global batch grows m times. Size-up is T(m) / T(1), at most m where all is well."
        ]
        yield Page("Size-up", said, law_tables.sizeup_sheet(results.sized_up), [], [])
    if results.foreseen:
        said = [foreseen.summary(results.foreseen)]
        yield Page("Predicted and measured", said, foreseen.sheet(results.foreseen), [], [])
    if results.lint:
        body = [[one.severity, one.name, one.where, one.what, one.fix] for one in results.lint]
        if narrow:
            yield Page("Findings", [], None, [f"{s}: {name}: {where}: {what}" for s, name, where, what, _ in body], [])
        else:
            heads = ["", "finding", "where", "what", "what to do"]
            yield Page("Findings", [], Sheet(heads, body, set(range(5))), [], [])
    if results.problems:
        heading = f"Without a result: {plural(len(results.problems), 'run')} of {len(results.rows)}"
        yield Page(heading, [], tables.problem_sheet(results.problems), [], [])
    if results.notes:
        yield Page("Notes", list(results.notes), None, [], [])


def _scaling(table: Table, results: Results, narrow: bool) -> Page:
    said = headlines(table, results.efficiency_target)
    said += [one.sentence for one in results.crossovers if one.key == table.key]
    remarks = tables.remarks(table) if narrow else []
    return Page(title(table), facts(table), tables.sheet(table, narrow=narrow), remarks, said)


def _comparisons(sets: tuple[ComparisonSet, ...], heading: str, narrow: bool) -> Iterator[Page]:
    """Yield for each set what changed by how much, then the verdicts of all of them in one table."""
    for one in sets:
        sentences = [] if narrow else verdict_tables.sentences(one)
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
