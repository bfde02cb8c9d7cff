"""`submit --max-queued`: a user keeps to a number of jobs in the queue; `status` sends more when there is room."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stub_slurm import StubSlurm

from hpcpar.cli import main
from hpcpar.control.again import requests


@pytest.fixture
def slurm(commands: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> StubSlurm:
    monkeypatch.setattr("hpcpar.control.gate.check", lambda *_: [])  # what is installed here is no matter of this
    return StubSlurm(commands, tmp_path)


def look(slurm: StubSlurm, capsys: Any, *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    main(["status", str(slurm.runs), "--json", *flags])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def sent(slurm: StubSlurm) -> list[int]:
    """How many runs each batch has."""
    return [len(batch.read().runs) for batch in slurm.study.batches()]


def test_what_has_no_room_is_planned_and_sent_by_status_later(slurm: StubSlurm, capsys: Any) -> None:
    slurm.submit(repeats=7, flags=["--max-queued", "3"])
    assert "3 runs in 1 batch submitted; 4 wait for room in the queue" in capsys.readouterr().err
    assert sent(slurm) == [3]
    slurm.holds("1|[0-2]|PENDING")
    before = look(slurm, capsys)
    assert (before["counts"], before["waiting"], sent(slurm)) == ({"planned": 4, "queued": 3}, 4, [3])
    assert {row["note"] for row in before["rows"] if row["state"] == "planned"} == {
        "waits for room in the queue: at most 3 jobs"
    }
    slurm.holds("1|2|RUNNING")
    assert look(slurm, capsys, "--no-policy")["waiting"] == 4, "who only looks sends nothing"
    after = look(slurm, capsys)
    assert after["sent"] == ["s: 2 more sent, 2 wait for room in the queue"]
    assert sent(slurm) == [3, 2]
    slurm.holds()
    slurm.accounting.write_text("".join(f"1_{i}|TIMEOUT|0:0|1|n1|x|None\n" for i in range(3)))
    with slurm.accounting.open("a") as file:
        file.write("".join(f"2_{i}|TIMEOUT|0:0|1|n1|x|None\n" for i in range(2)))
    last = look(slurm, capsys)
    assert (last["waiting"], sent(slurm)) == (0, [3, 2, 2])
    names = [name for batch in slurm.study.batches() for name in batch.read().runs.values()]
    assert len(names) == len(set(names)) == 7


def test_jobs_of_other_studies_count(slurm: StubSlurm, capsys: Any) -> None:
    slurm.holds("900|[0-9%2]|PENDING", "901|N/A|RUNNING")
    slurm.submit(repeats=3, flags=["--max-queued", "12"])
    assert sent(slurm) == [1]
    slurm.holds("900|[0-9%2]|PENDING", "901|N/A|RUNNING", "1|N/A|PENDING")
    assert look(slurm, capsys)["waiting"] == 2


def test_with_no_room_at_all_the_runs_are_planned(slurm: StubSlurm, capsys: Any) -> None:
    slurm.holds("900|N/A|RUNNING")
    path = slurm.place / "s.toml"
    path.write_text('name = "s"\ncluster = "slurm-test"\nworkload = "mlp"\nstrategies = ["ddp"]\nmax_queued = 1\n')
    assert main(["submit", str(path), "--runs", str(slurm.runs)]) == 0
    assert "0 runs in 0 batches submitted; 1 wait for room" in capsys.readouterr().err
    assert requests.max_queued(slurm.study) == 1
    slurm.holds()
    assert look(slurm, capsys)["sent"] == ["s: 1 more sent, 0 wait for room in the queue"]


def test_where_nobody_knows_how_full_the_queue_is_nothing_is_sent(slurm: StubSlurm, capsys: Any) -> None:
    slurm.commands.write("squeue", "echo 'Socket timed out' >&2; exit 1")
    path = slurm.place / "s.toml"
    path.write_text('name = "s"\ncluster = "slurm-test"\nworkload = "mlp"\nstrategies = ["ddp"]\nmax_queued = 5\n')
    assert main(["submit", str(path), "--runs", str(slurm.runs)]) == 0
    said = capsys.readouterr().err
    assert "nothing is sent while nobody knows how full the queue is" in said
    assert sent(slurm) == []


def test_a_refused_batch_is_a_persons_turn(slurm: StubSlurm, capsys: Any) -> None:
    slurm.submit(repeats=3, flags=["--max-queued", "1"])
    slurm.commands.write("sbatch", "echo 'Invalid account' >&2; exit 1")
    answer = look(slurm, capsys)
    assert any("Invalid account" in text for text in answer["trouble"])
    assert (answer["waiting"], sent(slurm)) == (1, [1, 1])


def test_local_has_no_such_limit(isolation: Any, capsys: Any) -> None:
    assert main(["submit", "--cluster", "local", "--max-queued", "3"]) == 2
    assert "max_queued: is for a cluster that limits a user's jobs" in capsys.readouterr().err
