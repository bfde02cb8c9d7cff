"""The files of `collect --out`, as bytes: the same results give the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from hpcpar.analysis.report import extrap, html

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
        "factors.csv": csv(results.factors).encode(),
        "pipelines.csv": csv(results.pipelines).encode(),
        "cost.csv": csv(results.cost).encode(),
        "scaling.md": said.to_markdown().encode(),
        "scaling.tex": results.to_latex().encode(),
        "scaling.json": said.to_json().encode(),
    }
    carried = dict(tables)
    figures = {f"figures/{one.plan.stem}.{kind}": content for one in drawn for kind, content in one.files.items()}
    tables |= {name: content.encode() for name, content in _extrap(results).items()}
    return {"report.html": html.page(said, drawn, carried).encode(), **tables, **figures, **parquet(results)}


def _extrap(results: Results) -> dict[str, str]:
    """Return a file for Extra-P of every table that has times; of those after the first, the names end in -2, -3."""
    found = {}
    for place, table in enumerate(results.tables, start=1):
        text = extrap.lines(table)
        if text:
            found["extrap.jsonl" if place == 1 else f"extrap-{place}.jsonl"] = text
    return found


def parquet(results: Results) -> dict[str, bytes]:
    """Return the DataFrames as Parquet, where pyarrow is installed (the extra `parquet`)."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        return {}
    found = {}
    for name in ("runs", "scaling", "verdicts", "laws", "sizeup", "factors", "pipelines", "cost"):
        frame = getattr(results, name)
        empty = [column for column in frame.columns if frame[column].isna().all()]
        table = pa.Table.from_pandas(frame.astype(dict.fromkeys(empty, "float64")), preserve_index=False)
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(None), sink, compression="zstd")
        found[f"{name}.parquet"] = sink.getvalue().to_pybytes()
    return found


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
