"""The files of `collect --out`, as bytes: the same results give the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hpcpar.analysis.report import html

if TYPE_CHECKING:
    import pandas as pd

    from hpcpar.analysis.results import Results


def files(results: Results, say: Callable[[str], None]) -> dict[str, bytes]:
    """Return every file, by its name in the folder; `say` is told of each figure that is not there."""
    from hpcpar.analysis.figures.gallery import draw_all

    drawn, reasons = draw_all(results)
    for reason in reasons:
        say(reason)
    said = msgspec.structs.replace(results, notes=(*results.notes, *reasons))
    tables = {
        "runs.csv": csv(results.runs).encode(),
        "scaling.csv": results.to_csv().encode(),
        "verdicts.csv": csv(results.verdicts).encode(),
        "laws.csv": csv(results.laws).encode(),
        "sizeup.csv": csv(results.sizeup).encode(),
        "scaling.md": said.to_markdown().encode(),
        "scaling.json": said.to_json().encode(),
    }
    figures = {f"figures/{one.plan.stem}.{kind}": content for one in drawn for kind, content in one.files.items()}
    return {"report.html": html.page(said, drawn, tables).encode(), **tables, **figures}


def report(results: Results) -> str:
    """Return the page alone."""
    from hpcpar.analysis.figures.gallery import draw_all

    drawn, reasons = draw_all(results, ("svg",))
    said = msgspec.structs.replace(results, notes=(*results.notes, *reasons))
    return html.page(said, drawn, {"scaling.csv": results.to_csv().encode(), "scaling.json": said.to_json().encode()})


def csv(frame: pd.DataFrame) -> str:
    """Print a DataFrame as CSV in full precision."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text
