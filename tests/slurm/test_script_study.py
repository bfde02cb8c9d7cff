"""Scaling tables of the user's own scripts, on the real Slurm: one that knows nothing of hpcpar, one that logs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(1500)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def _table(slurm: Any, runs: Path, script: str, nodes: tuple[str, ...], repeats: int) -> list[dict[str, Any]]:
    """Submit a script as its user would; return the table's rows, one a size."""
    words = (sys.executable, str(EXAMPLES / script), "--batch", "{micro_batch}", "--steps", "{steps}")
    size = ("--global-batch", "64", "--steps", "60", "--repeats", str(repeats), "--nodes", *nodes)
    where = ("--cluster", "slurm-test", "--workload", "script", "--runs", str(runs))
    slurm.hpcpar("submit", *where, *size, "--", *words)
    done = {"done": len(nodes) * repeats}
    assert slurm.wait(runs, lambda found: found["counts"] == done or "failed" in found["counts"], 900)["counts"] == done
    (table,) = json.loads(slurm.hpcpar("collect", str(runs), "--json").stdout)["tables"]
    rows: list[dict[str, Any]] = table["rows"]
    assert [(row["nodes"], row["ranks"], row["runs_ok"]) for row in rows] == [
        (int(n), 2 * int(n), repeats) for n in nodes
    ]
    assert all(row["samples_per_s"] > 0 and row["speedup"] > 0 for row in rows)
    return rows


def test_a_script_that_does_not_import_hpcpar_gets_a_scaling_table(slurm: Any, tmp_path: Path) -> None:
    assert not any("hpcpar" in line for line in _imports("plain_ddp.py"))
    rows = _table(slurm, tmp_path, "plain_ddp.py", ("1", "2", "4"), repeats=2)
    assert all(row["loss_last_min"] is None for row in rows)


def test_a_script_that_logs_is_timed_from_inside(slurm: Any, tmp_path: Path) -> None:
    assert any("hpcpar" in line for line in _imports("logged_ddp.py"))
    rows = _table(slurm, tmp_path, "logged_ddp.py", ("1", "2"), repeats=1)
    assert all(row["loss_last_min"] is not None for row in rows)


def _imports(script: str) -> list[str]:
    lines = (EXAMPLES / script).read_text().splitlines()
    return [line for line in lines if line.startswith(("import ", "from "))]
