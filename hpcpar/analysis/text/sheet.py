"""A table as text, and how it is printed: GitHub Markdown, plain text, a terminal."""

from __future__ import annotations

import io
from typing import NamedTuple


class Sheet(NamedTuple):
    """A table as text: what Markdown and the terminal print."""

    heads: list[str]
    rows: list[list[str]]
    left: set[int]
    """Columns of words; the others are numbers and stand to the right."""


def one_line(text: str) -> str:
    """Return the text in one line and without control characters: messages of jobs end in tables and terminals."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def markdown(page: Sheet) -> str:
    """Print a sheet as a GitHub table."""
    from tabulate import tabulate

    body = [[_escape(text) for text in line] for line in page.rows]
    text: str = tabulate(body, page.heads, tablefmt="github", disable_numparse=True, colalign=_alignment(page))
    return text


def plain(page: Sheet) -> str:
    """Print a sheet as aligned text."""
    from tabulate import tabulate

    text: str = tabulate(page.rows, page.heads, tablefmt="simple", disable_numparse=True, colalign=_alignment(page))
    return text


def pretty(page: Sheet, width: int) -> str:
    """Print a sheet for a terminal of this width, with colours."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for place, head in enumerate(page.heads):
        table.add_column(head, justify="left" if place in page.left else "right")
    for line in page.rows:
        table.add_row(*(Text(text) for text in line))  # Text: what stands in brackets is no markup
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=width).print(table)
    return out.getvalue().rstrip("\n")


def _alignment(page: Sheet) -> list[str] | None:
    if not page.rows:
        return None  # tabulate wants one entry a column of the body
    return ["left" if place in page.left else "right" for place in range(len(page.heads))]


def _escape(text: str) -> str:
    for char in "\\|<*`":
        text = text.replace(char, "&lt;" if char == "<" else "\\" + char)
    return text


def html(page: Sheet) -> str:
    """Print a sheet as an HTML table without style or script: a notebook brings its own."""
    from html import escape

    def line(tag: str, texts: list[str]) -> str:
        align = ["left" if place in page.left else "right" for place in range(len(texts))]
        cells = (f'<{tag} style="text-align:{a}">{escape(t)}</{tag}>' for a, t in zip(align, texts, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    body = "\n".join(line("td", texts) for texts in page.rows)
    return f"<table>\n<thead>{line('th', page.heads)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
