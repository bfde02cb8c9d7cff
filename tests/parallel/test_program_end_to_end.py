"""Programs of the user's own, as a job runs them: real processes under the launcher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from worker_runs import ATTEMPT, finish, logs, make_run, start

from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.outcome import decide
from hpcpar.records import Cause
from hpcpar.runs import RunFolder

QUIET = "import os, pathlib; pathlib.Path(os.environ['RANK']).write_text(' '.join(__import__('sys').argv[1:]))"
LOGS = """
import os, hpcpar
for step in range(5):
    hpcpar.log(loss=float(os.environ["RANK"]) + step, samples=8)
"""
DIES = """
import os, sys, time
if os.environ["RANK"] == "1":
    print("the shovel broke", file=sys.stderr)
    sys.exit(3)
time.sleep(600)
"""
STORE = """
import os, torch
from torch import distributed
distributed.init_process_group("gloo")
assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True"
total = torch.tensor([float(os.environ["RANK"]) + 1])
distributed.all_reduce(total)
assert float(total) == sum(range(1, distributed.get_world_size() + 1)), total
distributed.destroy_process_group()
"""


def _run(path: Path, source: str, *words: str, **more: Any) -> tuple[RunFolder, int]:
    script = path / "program.py"
    script.write_text(source)
    options = {"command": ["python", str(script), *words]}
    settings = {"steps": 1, "folder": str(path), **more}
    folder = make_run(path / "run", "own", None, "script", options, **settings)
    return folder, finish(folder, start(folder))


def test_a_silent_program_is_timed_from_outside_and_gets_its_numbers(tmp_path: Path) -> None:
    folder, code = _run(tmp_path, QUIET, "--batch={micro_batch}", "{{seed}}", "a b;$(c)", global_batch=64)
    assert code == 0, logs(folder, 0)
    for rank in ("0", "1"):
        assert (tmp_path / rank).read_text() == "--batch=32 {seed} a b;$(c)", "words stay words, no shell reads them"
    record = folder.record()
    assert record is not None
    assert record.whole_program
    assert record.steps == 1
    assert record.notes == ["timed from outside: the one time is that of the whole program, its start included"]
    assert all(facts.peak_memory_bytes > 5e6 for facts in record.ranks)
    row = reduce_run(folder)
    assert row.step_time_s == folder.steps(ATTEMPT).records[0].time_s
    assert row.samples_per_s == pytest.approx(64 / (row.step_time_s or 0)), "one update was declared"


def test_the_throughput_of_a_silent_program_needs_its_number_of_steps(tmp_path: Path) -> None:
    folder, code = _run(tmp_path, QUIET, declares_steps=False, ranks_per_node=1)
    assert code == 0, logs(folder, 0)
    row = reduce_run(folder)
    assert row.usable
    assert row.samples_per_s is None


def test_a_program_that_logs_is_timed_from_inside(tmp_path: Path) -> None:
    folder, code = _run(tmp_path, LOGS, global_batch=16, declares_steps=False)
    assert code == 0, logs(folder, 0)
    steps = folder.steps(ATTEMPT).records
    assert [step.step for step in steps] == [1, 2, 3, 4, 5]
    assert [step.loss for step in steps] == [0.5, 1.5, 2.5, 3.5, 4.5], "the mean of both ranks"
    assert all(step.weight == 16 for step in steps)
    record = folder.record()
    assert record is not None
    assert (record.steps, record.whole_program, record.notes) == (5, False, [])
    assert reduce_run(folder).steps_used == 3, "a warm-up of 5 steps is at most half of what there is"


def test_a_program_whose_batch_is_not_the_planned_one_is_told_on(tmp_path: Path) -> None:
    folder, _ = _run(tmp_path, LOGS, global_batch=64, declares_steps=False)
    record = folder.record()
    assert record is not None
    assert record.notes == ["the program processed 16 samples a step where 64 were planned"]


def test_a_program_that_dies_leaves_its_last_words(tmp_path: Path) -> None:
    folder, code = _run(tmp_path, DIES)
    assert code == 1
    outcome = decide(folder)
    assert outcome.cause == Cause.PYTHON_ERROR
    assert "rank 1 on " in outcome.message
    assert "ended with exit code 3; its last lines:\nthe shovel broke" in outcome.message
    assert "the shovel broke" in logs(folder, 1)


def test_a_program_that_cannot_be_started_says_so(tmp_path: Path) -> None:
    options = {"command": ["no-such-program-anywhere"]}
    folder = make_run(tmp_path / "run", "own", None, "script", options, ranks_per_node=1, steps=1, folder=str(tmp_path))
    assert finish(folder, start(folder)) == 1
    outcome = decide(folder)
    assert outcome.cause == Cause.LAUNCH
    assert "cannot start 'no-such-program-anywhere'" in outcome.message
    assert "No such file or directory" in outcome.message


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.full), 2])
def test_torchs_rendezvous_finds_the_workers_store(tmp_path: Path, ranks: int) -> None:
    folder, code = _run(tmp_path, STORE, ranks_per_node=ranks)
    assert code == 0, logs(folder, 0)
