"""`hpcpar plan` with its child process: what is traced, what is kept, and what is said without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hpcpar.cli import main
from hpcpar.control.forecast.ask import Shapes, ask
from hpcpar.control.forecast.children import family
from hpcpar.runs import state_folder
from hpcpar.shapes import Answer, Case, Model, Question

WORDS = "plan --cluster perlmutter --workload mlp --global-batch 64 --nodes 1 --strategy ddp fsdp pp"


@pytest.mark.full
def test_a_plan_is_data_and_what_was_traced_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS.split(), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [one["nodes"] for one in first["summary"]["fastest"]] == [[1]]
    assert first["summary"]["batches"] == []
    rows = {row["strategy"]: row for row in first["rows"]}
    assert rows.keys() == {"ddp", "fsdp", "pp"}
    whole = rows["ddp"]["need"]["parameters"]
    assert rows["fsdp"]["need"]["parameters"] == pytest.approx(whole / 4)
    assert 0 < rows["pp"]["need"]["parameters"] < whole
    for row in rows.values():
        assert row["fits"] == "yes"
        held = ("parameters", "gradients", "moments", "activations", "buffers", "batch")
        assert row["need_bytes"] == pytest.approx(sum(row["need"][part] for part in held))
        assert row["time"]["low"] < row["time"]["expected"] < row["time"]["high"]
    kept = list((state_folder() / "shapes").glob("*.json"))
    assert kept
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert main(WORDS.split()) == 0
    assert "not calibrated: no finished run of this cluster" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in kept] == stamps


@pytest.fixture
def no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let children find no torch; return what is said then."""
    (tmp_path / "torch").mkdir()
    missing = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (tmp_path / "torch" / "__init__.py").write_text(missing)
    outer = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{outer}" if outer else str(tmp_path))
    return "torch is not installed here: pip install 'hpcpar[torch]'"


def test_without_torch_the_reason_is_said(no_torch: str) -> None:
    assert ask("mlp", {}, [Case()]) == no_torch


def test_a_child_that_has_ended_is_not_asked_again(no_torch: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no such luck')\n")
    crash, other = (Question(workload=name, options={}, cases=(Case(),)) for name in (f"{broken}:WORKLOAD", "mlp"))
    with family() as children:
        (words,) = children.ask([crash])
        (answer,) = children.ask([other])
    assert isinstance(words, str)
    assert "no such luck" in words
    assert answer == Answer(problem=no_torch)


def test_without_a_trace_nothing_is_started() -> None:
    assert ask("mlp", {"hidden": 3}, [Case()], trace=False) == "its shapes have not been traced yet: `hpcpar plan` does"


@pytest.mark.full
def test_a_workload_that_fails_says_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no such luck')\n")
    found = ask(f"{broken}:WORKLOAD", {}, [Case()])
    assert isinstance(found, str)
    assert "its shapes cannot be traced" in found
    assert "no such luck" in found


@pytest.mark.full
def test_a_mixture_is_traced_with_its_experts_spread() -> None:
    found = ask("llama-moe", {}, [Case(), Case(ep=2)])
    assert isinstance(found, Shapes)
    alone, spread = (found.models[case] for case in (Case(), Case(ep=2)))
    assert isinstance(alone, Model)
    assert isinstance(spread, Model)
    block, half = alone.units[1], spread.units[1]
    assert half.spread * 2 == block.parameters - half.parameters + half.spread
    assert [message.collective for message in half.messages] == ["all-to-all", "all-to-all"]
