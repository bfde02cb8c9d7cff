"""Runs folders in, scaling tables out: what `hpcpar collect` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from hpcpar.analysis import tables as print_as
from hpcpar.analysis.captions import facts, title
from hpcpar.analysis.gather import gather
from hpcpar.analysis.headlines import headlines
from hpcpar.analysis.numbers import plural
from hpcpar.analysis.reduce import Row
from hpcpar.analysis.scaling import Table, build
from hpcpar.analysis.support import FULL, NONE, Support, supports
from hpcpar.analysis.tables import Sheet
from hpcpar.errors import InputError, Problem
from hpcpar.storage import make_folder, write_file

if TYPE_CHECKING:
    import pandas as pd

SUPPORT_FACTS = (
    "Speed-up: time of one fit and use with 1 worker over that with n, on one node; 95 % intervals over runs.",
    f"Verdict: full, the interval is wholly at or above {FULL:g} n; limited, wholly above 1 and below that; none, "
    f"wholly below {NONE:g}; unclear, anything else; disturbed, CPUs were oversubscribed or shared with other runs.",
)
SCHEMA = 1
"""Of scaling.json."""


class Results(Struct, frozen=True, kw_only=True):
    """Everything that was collected. The same runs give the same bytes, in whatever order they were found."""

    rows: tuple[Row, ...]
    """Every run, sorted; those that failed, never ran or are missing too."""
    tables: tuple[Table, ...]
    problems: tuple[Row, ...]
    """The runs that have no time to show."""
    notes: tuple[str, ...]
    supports: tuple[Support, ...] = ()
    """Estimators: what they claim beside what was measured."""
    efficiency_target: float = 0.75

    @property
    def complete(self) -> bool:
        """True where every run that was asked for has a result."""
        return not self.problems and all(cell.runs_ok == cell.runs_asked for one in self.tables for cell in one.cells)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a run, tidy."""
        from hpcpar.analysis.frame import frame

        return frame(self.rows)

    @property
    def scaling(self) -> pd.DataFrame:
        """One row a series and size, tidy; intervals in columns of their own."""
        import pandas as pd

        return pd.DataFrame(print_as.records(self.tables), columns=print_as.record_names())

    def to_markdown(self) -> str:
        """Print the tables with all that must stand beside them, as Markdown."""
        return self._text(print_as.markdown, heading="## ", bullet="- ", narrow=False)

    def to_csv(self) -> str:
        """Print the scaling tables as one CSV in full precision."""
        text: str = self.scaling.to_csv(index=False, lineterminator="\n")
        return text

    def to_json(self) -> str:
        """Print tables, problems and notes as JSON."""
        content = {
            "schema": SCHEMA,
            "complete": self.complete,
            "efficiency_target": self.efficiency_target,
            "tables": [print_as.document(table, self.efficiency_target) for table in self.tables],
            "support": msgspec.to_builtins(self.supports),
            "problems": [msgspec.to_builtins(row) for row in self.problems],
            "notes": self.notes,
        }
        return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"

    def to_text(self, *, width: int | None = None) -> str:
        """Print the tables for a terminal: in colour for one of `width` columns, plainly where None."""
        if width is None:
            return self._text(print_as.plain, heading="", bullet="  ", narrow=True)
        return self._text(lambda page: print_as.pretty(page, width), heading="", bullet="  ", narrow=True)

    def save(self, folder: Path, say: Callable[[str], None] | None = None) -> list[Path]:
        """Write runs.csv, scaling.csv, scaling.md, scaling.json and a figure a table; return their paths.

        The figures (scaling.png, scaling.svg; further tables: scaling-2.png, ...) need the extra `report`. Without it,
        or where there is nothing to draw, scaling.md says why, and so does `say`, called once a reason.

        Raises:
            StorageError: the folder cannot be written.
        """
        from hpcpar.analysis.figure import draw_all

        make_folder(folder)
        figures, reasons = draw_all(self.tables, self.efficiency_target)
        if say is not None:
            for reason in reasons:
                say(reason)
        said = msgspec.structs.replace(self, notes=(*self.notes, *reasons))
        files = {
            "runs.csv": self.frame.to_csv(index=False, lineterminator="\n").encode(),
            "scaling.csv": self.to_csv().encode(),
            "scaling.md": said.to_markdown().encode(),
            "scaling.json": said.to_json().encode(),
            **figures,
        }
        for name, content in files.items():
            write_file(folder / name, content)
        return [folder / name for name in files]

    def _text(self, show: Callable[[Sheet], str], heading: str, bullet: str, narrow: bool) -> str:
        parts: list[str] = []
        if self.supports:
            parts += [
                heading + "Parallel support of estimators: claimed and measured",
                show(print_as.support_sheet(self.supports)),
            ]
            parts += [_listed(SUPPORT_FACTS, bullet)]
        for table in self.tables:
            parts += [heading + title(table), _listed(facts(table), bullet)]
            parts += [show(print_as.sheet(table, narrow=narrow))]
            remarks = print_as.remarks(table) if narrow else []
            parts += [_listed(lines, bullet) for lines in (remarks, headlines(table, self.efficiency_target)) if lines]
        if self.problems:
            parts += [heading + f"Without a result: {plural(len(self.problems), 'run')} of {len(self.rows)}"]
            parts += [show(print_as.problem_sheet(self.problems))]
        if self.notes:
            parts += [heading + "Notes", _listed(self.notes, bullet)]
        return "\n\n".join(parts) + "\n"


def collect(
    paths: Sequence[Path], *, baseline: str = "", warmup_steps: int | None = None, efficiency_target: float = 0.75
) -> Results:
    """Read all runs below the paths and make scaling tables of them.

    Args:
        paths: runs folders, study folders, or run folders (which stand for their whole study).
        baseline: "STRATEGY@NODES" as the one baseline of every table; "" for each series' smallest size.
        warmup_steps: cut this many steps instead of what each run was planned with.
        efficiency_target: what the headlines and figures measure efficiency against, between 0 and 1.

    Raises:
        InputError: nothing to read, or a baseline that no run has.
    """
    if warmup_steps is not None and warmup_steps < 0:
        raise InputError(Problem("--warmup-steps", f"{warmup_steps} is negative"))
    if not 0 < efficiency_target <= 1:
        raise InputError(Problem("--efficiency-target", f"{efficiency_target:g} is not between 0 and 1"))
    gathered = gather(paths, warmup_steps)
    return Results(
        rows=gathered.rows,
        tables=build(gathered.rows, baseline),
        problems=tuple(row for row in gathered.rows if not row.usable),
        notes=(*gathered.notes, *_damage(gathered.rows)),
        supports=supports(gathered.rows),
        efficiency_target=efficiency_target,
    )


def _damage(rows: Sequence[Row]) -> list[str]:
    """Say what was left out of the numbers, run by run."""
    counted = {
        "lines could not be read": "rejected_lines",
        "steps had an impossible time or number": "rejected_steps",
        "steps were recorded more than once (the last line counts)": "duplicate_steps",
    }
    notes = [
        f"study {row.study}: run {row.run}: {getattr(row, name)} {words}"
        for row in rows
        for words, name in counted.items()
        if getattr(row, name)
    ]
    return notes + [f"study {row.study}: run {row.run}: {note}" for row in rows for note in row.notes]


def _listed(lines: Sequence[str], bullet: str) -> str:
    return "\n".join(bullet + print_as.one_line(line) for line in lines)
