"""One page that holds everything and needs nothing: no network, no scripts, no second file.

What comes from runs (names, messages, options) is text and stays text: the template escapes every value, control
characters are gone before, and the page itself forbids a browser to load or run anything.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple

from hpcpar.analysis.figures.gallery import Drawn
from hpcpar.analysis.report.methods import methods, provenance
from hpcpar.analysis.report.vector import inline
from hpcpar.analysis.text.numbers import NOTHING, memory, number, plural
from hpcpar.analysis.text.pages import Page, pages
from hpcpar.analysis.text.sheet import Sheet, one_line
from hpcpar.analysis.text.summary import summary
from hpcpar.assets import find

if TYPE_CHECKING:
    from hpcpar.analysis.results import Results

TEMPLATE = "report.html"
MOST_RUNS = 400
"""Runs of the appendix; more are in runs.csv alone."""
LARGEST_LINK = 1_000_000
"""Bytes of a table that the page carries with it; a larger one is a file beside it."""
_KINDS = {"csv": "text/csv", "json": "application/json", "md": "text/markdown"}
_VERDICTS = {
    "improves": "good",
    "strongly improves": "good",
    "deteriorates": "bad",
    "strongly deteriorates": "bad",
    "no change": "same",
    "inconclusive": "open",
}


class _Cell(NamedTuple):
    text: str
    kind: str
    """A class of the style sheet: "words", "" for numbers, and for verdicts what they say."""


class _Table(NamedTuple):
    heads: list[_Cell]
    rows: list[list[_Cell]]


class _Figure(NamedTuple):
    title: str
    caption: str
    svg: str


class _Section(NamedTuple):
    place: str
    title: str
    before: list[str]
    table: _Table | None
    after: list[str]
    figures: list[_Figure]


def page(results: Results, drawn: list[Drawn], downloads: dict[str, bytes]) -> str:
    """Return the report as HTML; the same results give the same bytes.

    Args:
        results: what was collected.
        drawn: its figures, with an "svg" of each.
        downloads: files that the page carries as links, name to content.

    Raises:
        InputError: a template of the user's own is not to be had.
    """
    import jinja2

    path = find("templates", TEMPLATE)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(path.parent)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    studies = sorted({row.study for row in results.rows})
    return environment.get_template(path.name).render(
        title=one_line(f"Scaling report: {', '.join(studies[:4])}{' and others' if len(studies) > 4 else ''}"),
        counts=f"{plural(len(results.rows), 'run')}, {sum(row.usable for row in results.rows)} with a result",
        summary=[(line.kind, one_line(line.text)) for line in summary(results)],
        sections=_sections(results, drawn),
        runs=_runs(results),
        runs_left_out=max(0, len(results.rows) - MOST_RUNS),
        methods=methods(results),
        provenance=[(name, one_line(value)) for name, value in provenance(results)],
        downloads=[(name, _link(name, content)) for name, content in downloads.items() if len(content) <= LARGEST_LINK],
        too_large=[name for name, content in downloads.items() if len(content) > LARGEST_LINK],
    )


def _sections(results: Results, drawn: list[Drawn]) -> list[_Section]:
    """Return a section for each printed page; the figures of a table stand with it, the verdicts' with theirs."""
    tables = iter(results.tables)
    of_verdicts = {one.title for one in (*results.against, *results.comparisons)}
    found = []
    for place, one in enumerate(pages(results, narrow=False), start=1):
        table = next(tables) if one.scaling else None
        mine = [
            figure
            for figure in drawn
            if (table is not None and figure.plan.table is table)
            or (figure.plan.table is None and one.title in of_verdicts and figure.plan.title == one.title)
        ]
        found.append(_section(f"s{place}", one, mine))
    return found


def _section(place: str, one: Page, drawn: list[Drawn]) -> _Section:
    figures = [
        _Figure(
            one_line(figure.plan.title),
            one_line(figure.plan.caption),
            inline(figure.files["svg"], f"{place}-{figure.plan.stem}", figure.plan.title, figure.plan.caption),
        )
        for figure in drawn
    ]
    return _Section(
        place,
        one_line(one.title),
        [one_line(line) for line in one.before],
        _table(one.sheet) if one.sheet is not None else None,
        [one_line(line) for line in (*one.after, *one.last)],
        figures,
    )


def _table(sheet: Sheet) -> _Table:
    def cells(texts: list[str]) -> list[_Cell]:
        return [_Cell(one_line(text), _kind(text, place in sheet.left)) for place, text in enumerate(texts)]

    return _Table(cells(sheet.heads), [cells(texts) for texts in sheet.rows])


def _kind(text: str, words: bool) -> str:
    if not words:
        return ""
    verdict = text.partition(",")[0].partition(" (")[0]
    return f"words {_VERDICTS[verdict]}" if verdict in _VERDICTS else "words"


def _runs(results: Results) -> _Table:
    heads = [
        "study",
        "run",
        "strategy",
        "nodes",
        "repeat",
        "state",
        "step time (s)",
        "last loss",
        "memory",
        "what happened",
    ]
    left = {0, 1, 2, 5, 9}
    body = [
        [
            *(row.study, row.run, row.strategy, str(row.nodes or NOTHING), str(row.repeat or NOTHING), row.state),
            *(number(row.step_time_s), number(row.loss_last, 6), memory(row.peak_memory_bytes)),
            "; ".join(filter(None, (row.cause if row.state != "done" else "", row.message, *row.notes))),
        ]
        for row in results.rows[:MOST_RUNS]
    ]
    return _table(Sheet(heads, body, left))


def _link(name: str, content: bytes) -> str:
    kind = _KINDS.get(name.rpartition(".")[2], "text/plain")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
