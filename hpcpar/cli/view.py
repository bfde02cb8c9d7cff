"""What `hpcpar status` looks like: the table, what fits on a screen, the line that counts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hpcpar.cli import printable
from hpcpar.units import human_duration

if TYPE_CHECKING:
    from hpcpar.control.status import Status, StatusRow

_COLOURS = {
    "done": "green",
    "failed": "red",
    "unreadable": "red",
    "running": "cyan",
    "queued": "yellow",
    "submitted": "yellow",
}
_COLUMNS = ("run", "strategy", "mesh", "nodes", "repeat", "state", "step", "elapsed", "left", "note")
_DISPENSABLE = ("note", "repeat", "left", "mesh", "strategy", "elapsed", "step", "nodes")
"""What a screen that is too narrow goes without, in this order: the name of a run and its state are never cut."""
_NOTE_WIDTH = 24
"""A note that got less would be a tower of syllables: it stands below the table then."""
_NUMBERS = ("nodes", "repeat", "step", "elapsed", "left")
_BEGAN = frozenset({"running", "done", "failed"})
_GAP = 2
"""Blanks between two columns, and around the table."""
WIDE = 200
"""Columns of what is no terminal: in a file or a pipe a table must not be cut at some invented width."""
_AROUND = 6
"""Lines of a study beside its rows: title, blank, headings, rule, blank, and what is not shown."""


def table(status: Status, most: int | None, width: int = WIDE) -> Any:
    """Return all studies' tables with at most `most` rows each (None: all), and the line that counts."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for study in dict.fromkeys(row.study for row in status.rows):
        parts += _study(study, [row for row in status.rows if row.study == study], most, width)
    return Group(*parts, Text(counts(status)))


def screen(status: Status, height: int, pause_s: float, width: int = WIDE) -> Any:
    """Return what fits on a screen of `height` lines: the most telling rows, the counts, and what was done."""
    from rich.console import Group
    from rich.text import Text

    clock = time.strftime("%H:%M:%S")
    told = [*status.sent, *status.trouble][: height // 8]
    below = [Text(printable(text), style="yellow", no_wrap=True, overflow="ellipsis") for text in told]
    foot = [Text(counts(status)), *below, Text(f"seen {clock}, next in {pause_s:g} s; Ctrl-C leaves", style="dim")]
    studies = list(dict.fromkeys(row.study for row in status.rows))
    room = height - len(foot) - 1
    shown = studies[: max(1, room // (_AROUND + 1))]
    each = max(1, room // max(1, len(shown)) - _AROUND)
    parts: list[Any] = []
    for study in shown:
        parts += _study(study, [row for row in status.rows if row.study == study], each, width, one_line=True)
    more = len(studies) - len(shown)
    return Group(*parts, *([Text(f"... and {more} more studies")] if more else []), *foot)


def _study(name: str, rows: list[StatusRow], most: int | None, width: int, *, one_line: bool = False) -> list[Any]:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = rows if most is None else _most_telling(rows, most)
    cells = [dict(zip(_COLUMNS, _cells(row), strict=True)) for row in shown]
    widths = _widths(cells, width)
    filled = Table(title=_safe(name), box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    for heading, each in widths.items():
        justify: Any = "right" if heading in _NUMBERS else "left"
        overflow: Any = "ellipsis" if one_line else "fold"
        filled.add_column(heading, justify=justify, width=each, no_wrap=one_line, overflow=overflow)
    for row in cells:
        filled.add_row(*(row[heading] for heading in widths))
    notes = [] if one_line or "note" in widths else [row for row in cells if row["note"]]
    below = [Text.assemble(row["run"], "  ", row["note"]) for row in notes]
    left = len(rows) - len(shown)
    return [filled, *below, *([Text(f"... and {left} more (--all shows them)")] if left else [])]


def _widths(cells: list[dict[str, Any]], width: int) -> dict[str, int]:
    """Choose the columns that stand whole beside each other; only a note may be wrapped, or cut on a full screen."""
    needed = {heading: max([len(heading), *(row[heading].cell_len for row in cells)]) for heading in _COLUMNS}
    chosen = needed | {"note": min(needed["note"], _NOTE_WIDTH)}
    for heading in sorted(_DISPENSABLE, key=lambda one: any(row[one] for row in cells)):  # what is empty goes first
        if _total(chosen) <= width:
            break
        del chosen[heading]
    if "note" in chosen:
        chosen["note"] = min(needed["note"], chosen["note"] + width - _total(chosen))
    return chosen


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + _GAP * len(widths)


def _cells(row: StatusRow) -> list[Any]:
    from rich.text import Text

    state = Text(row.state + (f": {row.cause}" if row.cause else ""), style=_COLOURS.get(row.state, ""))
    step = f"{row.step}/{row.steps}" if row.step else ""
    words = (row.run, row.strategy, row.mesh, str(row.nodes), str(row.repeat))
    unknown = "-" if row.state in _BEGAN else ""
    times = (_duration(row.elapsed_s) or unknown, _duration(row.left_s, "~"))
    return [*map(_safe, words), state, *map(Text, (step, *times)), _safe(note(row))]


def _duration(seconds: float | None, before: str = "") -> str:
    return "" if seconds is None else before + human_duration(seconds)


def note(row: StatusRow) -> str:
    """Return why a run waits and when it may start, or why it failed."""
    if row.state == "done":
        return ""
    if row.starts is None:
        return row.note
    day = "%H:%M" if abs(row.starts - time.time()) < 12 * 3600 else "%Y-%m-%d %H:%M"
    return f"{row.note}; may start {time.strftime(day, time.localtime(row.starts))}"


def _most_telling(rows: list[StatusRow], most: int) -> list[StatusRow]:
    """Choose what fits: failures first, then what runs, then the rest; kept in the table's order."""
    rank = {"failed": 0, "unreadable": 0, "running": 1, "queued": 2, "submitted": 2, "planned": 3, "done": 4}
    chosen = sorted(range(len(rows)), key=lambda i: (rank.get(rows[i].state, 5), i))[:most]
    return [rows[i] for i in sorted(chosen)]


def _safe(text: str) -> Any:
    from rich.text import Text

    return Text(printable(text.replace("\n", " ")))


def counts(status: Status) -> str:
    """Return the line that counts runs by state, and failures by cause."""
    total = len(status.rows)
    causes = ", ".join(f"{n} {cause}" for cause, n in status.causes.items())
    words = {"failed": f" ({causes})"} if len(status.causes) > 1 else {"failed": f" ({next(iter(status.causes), '')})"}
    states = ", ".join(f"{n} {state}{words.get(state, '')}" for state, n in status.counts.items())
    return f"{total} run{'s' * (total != 1)}" + (f": {states}" if states else "")
