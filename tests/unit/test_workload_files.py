"""Workloads in files of the user's own: described by a child, imported by the job, and never by the plan."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from hpcpar import workload_files
from hpcpar.cli import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_workload.py"
SUBMIT = ["submit", "--cluster", "local", "--nodes", "2", "--dry-run", "--json", "--strategy", "pp"]


def _submit(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([*SUBMIT, *map(str, words)])
    answer = capsys.readouterr()
    return code, answer.out, answer.err


def test_a_file_is_planned_like_any_workload(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _submit(capsys, "--workload", f"{EXAMPLE}:LINE", "--set", "inputs=4")
    assert code == 0, err
    (spec,) = [run for batch in json.loads(out)["batches"] for run in batch["runs"]]
    assert spec["identity"]["workload"] == "own_workload.py:LINE", "no path: moving the file changes no key"
    assert spec["identity"]["workload_options"]["inputs"] == 4
    assert spec["identity"]["workload_options"]["optimizer"] == "adamw", "defaults are resolved"
    assert spec["workload_file"] == f"{EXAMPLE}:LINE"
    assert spec["workload_sha256"] == workload_files.digest(EXAMPLE)
    assert spec["study"] == "own_workload.LINE-strong"
    assert "own_workload" not in sys.modules, "the planning process never imports it"


BROKEN = {
    "raises": ("1 / 0", "cannot be described: .*ZeroDivisionError: division by zero"),
    "lacks": ("OTHER = 1", "has no 'LINE'"),
    "exits": ("import os; os._exit(7)", "cannot be described: exit code 7"),
    "talks": ("print('{}')\nimport sys; sys.exit('enough')", "cannot be described: .*enough"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_a_problem_with_its_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    source, words = BROKEN[kind]
    (tmp_path / "mine.py").write_text(source)
    code, _, err = _submit(capsys, "--workload", f"{tmp_path}/mine.py:LINE")
    assert code == 2
    assert re.search(words, err), err


def test_a_file_that_never_ends_is_given_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload_files, "_PATIENCE_S", 0.3)
    (tmp_path / "mine.py").write_text("import time; time.sleep(600)")
    code, _, err = _submit(capsys, "--workload", f"{tmp_path}/mine.py:LINE")
    assert code == 2
    assert "did not describe itself within 0.3 s" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workload", "nowhere/x.py:LINE"], "cannot read: No such file or directory"),
        (["--workload", f"{EXAMPLE}:LINE", "--set", "imputs=3"], "imputs: unknown key\n    did you mean 'inputs'?"),
        (["--workload", f"{EXAMPLE}:LINE", "--nodes", "4"], "deeper than the model's 2 units"),
    ],
)
def test_wrong_options_are_named(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    code, _, err = _submit(capsys, *words)
    assert code == 2
    assert message in err
