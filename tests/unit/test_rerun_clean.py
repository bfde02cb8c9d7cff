"""`hpcpar rerun` says what differs; `hpcpar clean` removes what is over. The scheduler is made of stubs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from records_oracle import ideal
from stub_slurm import StubSlurm, began

from hpcpar.cli import main
from hpcpar.runs import RunFolder
from hpcpar.storage import write_file


@pytest.fixture
def slurm(commands: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubSlurm:
    monkeypatch.setattr("hpcpar.control.gate.check", lambda *_: [])  # what is installed here is no matter of this
    return StubSlurm(commands, tmp_path)


def done(run: RunFolder, job: str, **versions: str) -> None:
    """Write the result of a run."""
    spec = run.spec()
    assert spec is not None
    began(run, f"{job}.0", "n1")
    record = ideal(nodes=(1,)).record(spec, f"{job}.0", 1e9)
    record = msgspec.structs.replace(record, job_id=job, versions=versions, ended=4e9)
    write_file(run.record_path, msgspec.json.encode(record))


# ---------------------------------------------------------------- rerun


def test_nothing_differs_and_the_run_is_sent_with_its_array_left_out(slurm: StubSlurm, capsys: Any) -> None:
    run, *_ = slurm.submit()
    done(run, "1_0")
    capsys.readouterr()
    assert main(["rerun", str(run.path), "--dry-run"]) == 0
    assert capsys.readouterr().err == "the same bytes; nothing was sent\n"
    assert main(["rerun", str(run.path)]) == 0
    assert "the same bytes; sent again as 2" in capsys.readouterr().err
    assert [line.reason for line in run.submissions() if line.kind == "submitted"] == ["", "rerun"]


def test_a_script_that_was_changed_a_version_and_a_template_are_told(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(repeats=1)
    done(run, "1", submitit="0.1", nonesuch="2")
    script = slurm.study.batches()[0].script_path
    script.write_text(script.read_text().replace("export OMP_NUM_THREADS=1", "export OMP_NUM_THREADS=7"))
    capsys.readouterr()
    assert main(["rerun", str(run.path), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    in_script, nonesuch, submitit = answer["differences"]
    assert "-export OMP_NUM_THREADS=7\n+export OMP_NUM_THREADS=1" in in_script
    assert nonesuch == "version of nonesuch is none, it was 2"
    assert submitit.startswith("version of submitit is 1.")
    assert submitit.endswith(", it was 0.1")
    assert answer["jobs"] == []
    assert main(["rerun", str(run.path), "--anyway"]) == 0


def test_another_plan_is_told_field_by_field(slurm: StubSlurm, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = slurm.submit(repeats=1)
    monkeypatch.setattr("hpcpar.control.again.rerun.__version__", "9.9")
    capsys.readouterr()
    assert main(["rerun", str(run.path), "--dry-run"]) == 1
    said = capsys.readouterr()
    assert "spec.json: code is '9.9', it was '" in said.out
    assert "not compared: versions: the run has no result that names them" in said.err


def test_a_program_of_ones_own_is_the_same_bytes(slurm: StubSlurm, capsys: Any) -> None:
    """Its words are a tuple when they are planned and a list when they are read."""
    (run,) = slurm.submit(repeats=1, flags=["--workload", "script", "--strategy", "own", "--", "false"])
    capsys.readouterr()
    assert main(["rerun", str(run.path), "--dry-run"]) == 0
    assert capsys.readouterr().err.endswith("the same bytes; nothing was sent\n")


def test_a_run_that_is_under_way_is_not_sent(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(repeats=1)
    slurm.holds("1|N/A|RUNNING")
    assert main(["rerun", str(run.path)]) == 2
    assert f"run '{run.path.name}': is running\n    wait for it, or `hpcpar cancel` it" in capsys.readouterr().err


def test_a_run_of_which_nothing_says_where_it_comes_from(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(repeats=1)
    slurm.study.requests_path.unlink()
    assert main(["rerun", str(run.path)]) == 2
    assert "nothing says what it was planned from" in capsys.readouterr().err


# ---------------------------------------------------------------- clean


def _litter(run: RunFolder, attempt: str) -> dict[str, Path]:
    """Put everything into a run's folder that may lie there; return it by what it is."""
    made = {
        "half a record": run.path / ".record.json.4711.0",
        "address": run.rendezvous_path(attempt),
        "stopped": run.stopped_path(attempt),
        "half a checkpoint": run.checkpoints / f"writing-0000000007.{attempt}" / "part",
        "checkpoint": run.checkpoints / "step-0000000005" / "part",
        "damaged checkpoint": run.checkpoints / f"aside-0000000004.{attempt}" / "part",
        "log": run.logs / f"{attempt}.0.log",
        "a stranger's file": run.path / "notes.txt",
        "a stranger's folder": run.checkpoints / "step-mine" / "part",
    }
    for path in made.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 10)
    return made


def _left(made: dict[str, Path]) -> set[str]:
    return {name for name, path in made.items() if path.exists()}


ALWAYS = {"half a record", "address", "stopped", "half a checkpoint"}
CHECKPOINTS = {"checkpoint", "damaged checkpoint"}


def test_only_leftovers_go_by_themselves(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(repeats=1)
    done(run, "1")
    kept = {path for path in slurm.runs.rglob("*") if path.is_file()}
    made = _litter(run, "1.0")
    assert main(["clean", str(slurm.runs), "--dry-run"]) == 0
    assert _left(made) == set(made)
    assert "4 leftovers of 40 B would be removed" in capsys.readouterr().err
    assert main(["clean", str(slurm.runs)]) == 0
    assert _left(made) == set(made) - ALWAYS
    assert main(["clean", str(slurm.runs), "--checkpoints", "--logs"]) == 0
    assert _left(made) == {"a stranger's file", "a stranger's folder"}
    assert all(path.exists() for path in kept)


def test_what_is_under_way_is_left_alone_and_of_what_failed_the_checkpoints(slurm: StubSlurm) -> None:
    running, over = slurm.submit(repeats=2)
    slurm.holds("1|0|RUNNING")
    slurm.ends("1_1", "TIMEOUT")
    alive, dead = _litter(running, "1_0.0"), _litter(over, "1_1.0")
    assert main(["clean", str(slurm.runs), "--checkpoints", "--logs"]) == 0
    assert _left(alive) == set(alive)
    assert _left(dead) == set(dead) - ALWAYS, "it goes on from its checkpoint, and its log says why it failed"


def test_where_the_scheduler_does_not_answer_nothing_goes(slurm: StubSlurm, capsys: Any) -> None:
    (run,) = slurm.submit(repeats=1)
    made = _litter(run, "1.0")
    slurm.commands.write("squeue", "echo no >&2; exit 1")
    assert main(["clean", str(slurm.runs)]) == 1
    assert "nothing is removed while nobody knows what runs" in capsys.readouterr().err
    assert _left(made) == set(made)


def test_links_are_not_followed(slurm: StubSlurm, tmp_path: Path) -> None:
    (run,) = slurm.submit(repeats=1)
    done(run, "1")
    outside = tmp_path / "outside"
    (outside / "step-0000000001").mkdir(parents=True)
    run.checkpoints.symlink_to(outside)
    run.logs.mkdir()
    (run.logs / "1.0.0.log").symlink_to(outside)
    assert main(["clean", str(slurm.runs), "--checkpoints", "--logs"]) == 0
    assert (outside / "step-0000000001").is_dir()
    assert (run.logs / "1.0.0.log").is_symlink()
