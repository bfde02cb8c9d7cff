"""A run is called gone, and sent again by its policy, only where a second look at the queue has not found it either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stub_slurm import StubSlurm

from hpcpar.cli import main

RETRY = "[policy]\nvanished = { retry = 2 }\n"
ARRAY = "1|0-2|PENDING"


@pytest.fixture
def slurm(commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubSlurm:
    monkeypatch.setattr("hpcpar.control.gate.check", lambda *_: [])
    monkeypatch.setattr("hpcpar.control.reconcile.SECOND_LOOK_S", 0.0)
    monkeypatch.setattr("hpcpar.control.reconcile.ACCOUNTING_LAG_S", -1.0)  # as if it was long ago
    return StubSlurm(commands, tmp_path)


def _states(slurm: StubSlurm, capsys: Any) -> list[str]:
    slurm.forget_calls()
    capsys.readouterr()
    main(["status", str(slurm.runs), "--json"])
    return [row["state"] for row in json.loads(capsys.readouterr().out)["rows"]]


def _empty_once(slurm: StubSlurm) -> None:
    """Let squeue forget everything in its first answer."""
    asked, calls = slurm.place / "asked", slurm.place / "calls"
    body = f'echo "squeue $*" >>{calls}; [ -e {asked} ] && cat {slurm.queue}; : >{asked}'
    slurm.commands.write("squeue", f"{body}; exit 0")


@pytest.mark.parametrize("accounting", ["PENDING", "", "off"])
def test_an_array_that_one_answer_leaves_out_is_not_sent_again(slurm: StubSlurm, capsys: Any, accounting: str) -> None:
    runs = slurm.submit(RETRY)
    slurm.holds(ARRAY)
    if accounting == "off":
        slurm.commands.write("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    elif accounting:
        slurm.ends("1_[0-2]", accounting)
    _empty_once(slurm)
    assert _states(slurm, capsys) == ["queued"] * 3
    assert slurm.calls("squeue") == 2
    assert slurm.calls("sbatch") == 0
    assert all(line.kind == "submitted" for run in runs for line in run.submissions())


def test_what_two_looks_do_not_find_is_gone(slurm: StubSlurm, capsys: Any) -> None:
    slurm.submit()
    assert _states(slurm, capsys) == ["failed"] * 3
    assert slurm.calls("squeue") == 2


def test_where_everything_is_known_one_look_is_enough(slurm: StubSlurm, capsys: Any) -> None:
    slurm.submit()
    slurm.holds("1|1-2|PENDING")
    slurm.ends("1_0", "TIMEOUT")
    assert _states(slurm, capsys) == ["failed", "queued", "queued"]
    assert slurm.calls("squeue") == 1


def test_a_row_that_does_not_say_which_tasks_it_is_stands_for_all_without_one(slurm: StubSlurm, capsys: Any) -> None:
    slurm.submit()
    slurm.holds("1|N/A|PENDING", "1|1|RUNNING")
    assert _states(slurm, capsys) == ["queued", "running", "queued"]
    assert slurm.calls("squeue") == 1
