"""Everything that was collected, as objects, DataFrames, text, files, and a notebook's display."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from hpcpar.analysis import outputs
from hpcpar.analysis.judging.comparisons import ComparisonSet
from hpcpar.analysis.judging.fits import Fit, fits
from hpcpar.analysis.judging.lint import Finding
from hpcpar.analysis.judging.support import Support
from hpcpar.analysis.judging.verdicts import Word
from hpcpar.analysis.report.latex import latex
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.cost import Cost, cost_names, cost_records, costs
from hpcpar.analysis.scaling.crossover import Crossover
from hpcpar.analysis.scaling.factors import Factors, factors
from hpcpar.analysis.scaling.foreseen import Foreseen, foreseen
from hpcpar.analysis.scaling.laws import Law
from hpcpar.analysis.scaling.pipelines import Bubble, pipelines
from hpcpar.analysis.scaling.sizeup import SizeUp
from hpcpar.analysis.scaling.table import Table
from hpcpar.analysis.text import law_tables, sheet, tables, verdict_tables
from hpcpar.analysis.text.chart import bars
from hpcpar.analysis.text.pages import Page, pages
from hpcpar.storage import make_folder, write_file

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2
"""Of scaling.json. 2: comparisons, laws, size-up and findings beside the tables."""


class Results(Struct, frozen=True, kw_only=True):
    """Everything that was collected. The same runs give the same bytes, in whatever order they were found.

    As DataFrames: `runs`, `scaling`, `verdicts`, `laws`, `sizeup`, `factors`, `pipelines`,
    `cost`, `findings`.
    """

    rows: tuple[Row, ...]
    """Every run, sorted; those that failed, never ran or are missing too."""
    tables: tuple[Table, ...]
    problems: tuple[Row, ...]
    """The runs that have no time to show."""
    notes: tuple[str, ...]
    efficiency_target: float = 0.75
    comparisons: tuple[ComparisonSet, ...] = ()
    """The strategies of each table against one of them, at equal nodes."""
    against: tuple[ComparisonSet, ...] = ()
    """This collection against another one; empty where none was named."""
    fitted: tuple[Law, ...] = ()
    crossovers: tuple[Crossover, ...] = ()
    sized_up: tuple[SizeUp, ...] = ()
    lint: tuple[Finding, ...] = ()
    studies: tuple[Path, ...] = ()
    """Where the runs lie; nothing that is printed depends on it."""
    supports: tuple[Support, ...] = ()
    """Estimators: what they claim beside what was measured."""

    @property
    def foreseen(self) -> tuple[Foreseen, ...]:
        """What the plan expected, beside what was measured; empty where no run has a prediction."""
        return foreseen(self.rows)

    @property
    def costed(self) -> tuple[Cost, ...]:
        """What the runs cost: measured, and billed where accounting is known."""
        return costs(self.rows)

    @property
    def factored(self) -> tuple[Factors, ...]:
        """What each efficiency is made of."""
        return factors(self.tables)

    @property
    def pipelined(self) -> tuple[Bubble, ...]:
        """How long the ranks of pipelines are idle, by formula."""
        return pipelines(self.tables)

    @property
    def fits(self) -> tuple[Fit, ...]:
        """What estimators' fits take; empty for other workloads."""
        return fits(self.rows)

    @property
    def complete(self) -> bool:
        """True where every run that was asked for has a result."""
        return not self.problems and all(cell.runs_ok == cell.runs_asked for one in self.tables for cell in one.cells)

    @property
    def judged(self) -> tuple[ComparisonSet, ...]:
        """What `failing` looks at: the comparison with another collection if there is one, else that of strategies."""
        return self.against or self.comparisons

    def failing(self, worst: str) -> list[str]:
        """Return a sentence for every comparison of `judged` that is as bad as `worst`.

        Args:
            worst: "deteriorates"; or "inconclusive": everything that is not shown to be at least no worse.
        """
        bad = {Word.DETERIORATES}
        if worst == "inconclusive":
            bad |= {Word.INCONCLUSIVE, Word.NOT_ENOUGH_RUNS, Word.NOT_COMPARABLE}
        return [
            f"{cell.strategy} on {cell.nodes} nodes, {cell.metric} against {one.baseline}: "
            + verdict_tables.verdict_words(cell)
            for one in self.judged
            for cell in one.comparisons
            if cell.verdict in bad
        ]

    @property
    def runs(self) -> pd.DataFrame:
        """One row a run, tidy."""
        from hpcpar.analysis.rows.frame import frame

        return frame(self.rows)

    @property
    def scaling(self) -> pd.DataFrame:
        """One row a series and size, tidy; intervals in columns of their own."""
        return _frame(tables.records(self.tables), tables.record_names())

    @property
    def verdicts(self) -> pd.DataFrame:
        """One row a comparison: strategies of one table, then this collection against the other one."""
        return _frame(verdict_tables.records([*self.comparisons, *self.against]), verdict_tables.record_names())

    @property
    def laws(self) -> pd.DataFrame:
        """One row a parameter of a law, or a law that was not fitted."""
        return _frame(law_tables.law_records(self.fitted), law_tables.law_names())

    @property
    def sizeup(self) -> pd.DataFrame:
        """One row a strategy, machine size and global batch."""
        return _frame(law_tables.sizeup_records(self.sized_up), law_tables.sizeup_names())

    @property
    def cost(self) -> pd.DataFrame:
        """One row a strategy and size: node-hours measured and billed, energy, memory by accounting."""
        return _frame(cost_records(self.costed), cost_names())

    @property
    def factors(self) -> pd.DataFrame:
        """One row a series and size that has an efficiency: what it is made of."""
        return _frame([msgspec.structs.asdict(one) for one in self.factored], list(Factors.__struct_fields__))

    @property
    def pipelines(self) -> pd.DataFrame:
        """One row a series and size with a pipeline: its bubble by formula."""
        return _frame([msgspec.structs.asdict(one) for one in self.pipelined], list(Bubble.__struct_fields__))

    @property
    def findings(self) -> pd.DataFrame:
        """One row a trap that was found."""
        return _frame([msgspec.to_builtins(one) for one in self.lint], list(Finding.__struct_fields__))

    def to_markdown(self) -> str:
        """Print the tables with all that must stand beside them, as Markdown."""
        return _text(pages(self, narrow=False), sheet.markdown, heading="## ", bullet="- ")

    def to_csv(self) -> str:
        """Print the scaling tables as one CSV in full precision."""
        return outputs.csv(self.scaling)

    def to_json(self) -> str:
        """Print tables, comparisons, laws, findings, problems and notes as JSON."""
        content = {
            "schema": SCHEMA,
            "complete": self.complete,
            "efficiency_target": self.efficiency_target,
            "tables": [tables.document(table, self.efficiency_target) for table in self.tables],
            "comparisons": [verdict_tables.document(one) for one in self.comparisons],
            "against": [verdict_tables.document(one) for one in self.against],
            "laws": law_tables.law_records(self.fitted),
            "crossovers": [{**msgspec.to_builtins(one), "sentence": one.sentence} for one in self.crossovers],
            "sizeup": law_tables.sizeup_records(self.sized_up),
            "foreseen": [{**msgspec.to_builtins(one), "error": one.error} for one in self.foreseen],
            "factors": [msgspec.to_builtins(one) for one in self.factored],
            "pipelines": [msgspec.to_builtins(one) for one in self.pipelined],
            "cost": cost_records(self.costed),
            "findings": [msgspec.to_builtins(one) for one in self.lint],
            "support": msgspec.to_builtins(self.supports),
            "fits": msgspec.to_builtins(self.fits),
            "problems": [msgspec.to_builtins(row) for row in self.problems],
            "notes": self.notes,
        }
        return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"

    def to_text(self, *, width: int | None = None, chart: bool = False) -> str:
        """Print what a person acts on: in colour for a terminal of `width` columns, plainly where None.

        Args:
            width: columns, or None.
            chart: draw efficiencies as bars, too; the terminal must know block characters.
        """

        def pretty(page: sheet.Sheet) -> str:
            return sheet.plain(page) if width is None else sheet.pretty(page, width)

        text = _text(pages(self, narrow=True), pretty, heading="", bullet="  ")
        charts = [bars(table, width, self.efficiency_target) for table in self.tables] if chart and width else []
        return "\n\n".join(filter(None, [text.rstrip("\n"), *charts])) + "\n"

    def _repr_html_(self) -> str:
        """Show the tables in a notebook."""
        return "\n".join(_html(page) for page in pages(self, narrow=False))

    def to_latex(self) -> str:
        """Print scaling tables and verdicts as LaTeX with booktabs."""
        return latex(self)

    def to_html(self) -> str:
        """Return the report as one page that needs no network, no script and no other file.

        Without the extra `report` it has no figures, and says so.
        """
        return outputs.report(self)

    def save(self, folder: Path, say: Callable[[str], None] | None = None) -> list[Path]:
        """Write the report (report.html), the tables (CSV, Markdown, LaTeX, JSON) and the figures; return the paths.

        Figures lie in figures/, as PNG, SVG and PDF; those of further tables end in -2, -3, ... They need the extra
        `report`. Without it, or where there is nothing to draw, scaling.md says why, and so does `say`, called once a
        reason.

        Raises:
            StorageError: the folder cannot be written.
        """
        files = outputs.files(self, say or (lambda _: None))
        make_folder(folder)
        for name, content in files.items():
            make_folder((folder / name).parent)
            write_file(folder / name, content)
        return [folder / name for name in files]


def _frame(records: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(records, columns=columns)


def _text(found: list[Page], show: Callable[[sheet.Sheet], str], heading: str, bullet: str) -> str:
    parts: list[str] = []
    for page in found:
        parts.append(heading + page.title)
        parts += [_listed(page.before, bullet)] if page.before else []
        parts += [show(page.sheet)] if page.sheet is not None else []
        parts += [_listed(page.after, bullet)] if page.after else []
        parts += [_listed(page.last, bullet)] if page.last else []
    return "\n\n".join(parts) + "\n"


def _listed(lines: list[str], bullet: str) -> str:
    return "\n".join(bullet + sheet.one_line(line) for line in lines)


def _html(page: Page) -> str:
    from html import escape

    def listed(lines: list[str]) -> str:
        items = "".join(f"<li>{escape(sheet.one_line(line))}</li>" for line in lines)
        return f"<ul>{items}</ul>" if lines else ""

    body = sheet.html(page.sheet) if page.sheet is not None else ""
    return f"<h3>{escape(page.title)}</h3>{listed(page.before)}{body}{listed([*page.after, *page.last])}"
