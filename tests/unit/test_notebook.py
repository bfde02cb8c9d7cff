"""The example notebook runs from its first cell to its last, and shows tables."""

import json
import os
from pathlib import Path

import pytest
from records_oracle import Oracle, Truth

from hpcpar.analysis.collect import collect

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebooks" / "scaling.ipynb"
ORACLE = Oracle(truths={"ddp": Truth(0.01, 0.002), "<b>x</b>": Truth(0.02, 0.002)}, noise=0.02)


def test_the_notebook_is_kept_without_results():
    cells = json.loads(NOTEBOOK.read_text())["cells"]

    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_the_display_is_tables_and_escapes_names(tmp_path):
    ORACLE.write(tmp_path)

    shown = collect([tmp_path])._repr_html_()

    assert shown.count("<table>") >= 2
    assert "<b>x" not in shown
    assert "&lt;b&gt;x" in shown


@pytest.mark.full
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (make browser)")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (make browser)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (make browser)")
    ORACLE.write(tmp_path)
    monkeypatch.setenv("RUNS", str(tmp_path))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(NOTEBOOK.parents[2]), os.environ.get("PYTHONPATH")]))
    )

    notebook = nbclient.NotebookClient(nbformat.read(NOTEBOOK, as_version=4), timeout=120).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output for output in outputs if output.output_type == "execute_result"]
    assert all("<table" in output.data["text/html"] for output in shown)
    assert len(shown) == 3
    assert "speed-up" in "".join(output.text for output in outputs if output.output_type == "stream")
