"""What a submission of many runs waits for: the disk once, and all of Slurm's answers at the same time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from stub_slurm import StubSlurm

from hpcpar import storage
from hpcpar.cli import main
from hpcpar.control import gate, slurm, writing
from hpcpar.control.gate.checks import Case, Finding
from hpcpar.errors import Problem

MANY = 40


@pytest.fixture
def stub(commands: Any, tmp_path: Path) -> StubSlurm:
    return StubSlurm(commands, tmp_path)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is waited for, and when the scheduler is asked, in their order."""
    seen: list[str] = []

    def note(place: Any, name: str, what: Any) -> None:
        real = getattr(place, name)

        def noted(*arguments: Any) -> Any:
            seen.append(what(*arguments))
            return real(*arguments)

        monkeypatch.setattr(place, name, noted)

    def name_of(descriptor: int) -> str:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name  # a whole file has a temporary name: .NAME.PID.N
        return name[1:].rsplit(".", 2)[0] if name.startswith(".") else name

    def count(place: Path) -> str:
        return f"{len(list(place.glob('*/spec.json')))} specs, {len(list(place.glob('batches/*/job.sh')))} script"

    note(storage.os, "fsync", name_of)
    note(writing, "sync", count)
    note(slurm, "sbatch", lambda _: "sbatch")
    return seen


def test_many_runs_are_waited_for_once_before_the_scheduler_is_asked(stub: StubSlurm, waits: list[str]) -> None:
    runs = stub.submit(repeats=MANY, flags=["--no-gate"])
    assert waits == [f"{MANY} specs, 1 script", "manifest.jsonl", "sbatch", "manifest.jsonl"]
    assert [len(run.submissions()) for run in runs] == [1] * MANY


def test_of_few_runs_every_file_is_waited_for_by_itself(stub: StubSlurm, waits: list[str]) -> None:
    stub.submit(repeats=2, flags=["--no-gate"])
    written = ["spec.json", "spec.json", "manifest.jsonl", "job.sh"]
    assert waits == [*written, "manifest.jsonl", "sbatch", "manifest.jsonl"]


def test_what_is_in_the_way_of_a_run_is_left_alone(stub: StubSlurm, capsys: Any) -> None:
    in_the_way = stub.submit(repeats=MANY, flags=["--no-gate"])[-1].path
    stub.study.path.rename(stub.place / "elsewhere")
    in_the_way.parent.mkdir()
    in_the_way.write_text("mine")
    assert main(["submit", str(stub.place / "s.toml"), "--runs", str(stub.runs), "--no-gate"]) == 2
    assert f"{in_the_way}: cannot write: {in_the_way} is not a folder" in capsys.readouterr().err
    assert list(in_the_way.parent.iterdir()) == [in_the_way], "what was begun is taken back"
    assert in_the_way.read_text() == "mine"


# ---------------------------------------------------------------- the gate


@pytest.fixture
def case() -> Case:
    from test_checks import case_of, profile_of

    found: Case = case_of(profile_of())
    return found


def asking(look: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "OFFLINE", gate.OFFLINE[1:2])
    monkeypatch.setattr(gate, "ONLINE", tuple(gate.Check(name, name, look) for name in ("one", "two")))


def test_slurm_is_asked_all_at_once_and_something_is_done_meanwhile(
    case: Case, stub: StubSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = threading.Barrier(3, timeout=30)

    def look(_: Case) -> list[Finding]:
        everybody.wait()
        return [Finding("warning", Problem("where", "what"))]

    asking(look, monkeypatch)
    found = list(gate.examine(case, everybody.wait))
    assert [result.check.name for result in found] == ["scheduler", "one", "two"]
    assert gate.check(case, everybody.wait) == [Problem("where", "what")]


def test_without_slurm_nothing_is_done_meanwhile(case: Case, commands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asking(lambda _: pytest.fail("asked"), monkeypatch)
    found = list(gate.examine(case, lambda: pytest.fail("done")))
    assert [finding.level for result in found for finding in result.findings] == ["error", "unchecked", "unchecked"]
