"""The worker as a job runs it: real processes, started by the launcher, judged by what they leave in the run folder."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from worker_runs import ATTEMPT, finish, logs, make_run, start, worker_command

from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.outcome import UNWRITABLE_CODE, decide
from hpcpar.records import Cause
from hpcpar.runs import RunFolder
from hpcpar.worker.measure.window import MAX_STEPS


def test_a_run_over_two_nodes_leaves_events_steps_and_a_record(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "ddp", nodes=2, ranks_per_node=1)
    assert finish(folder, start(folder)) == 0, logs(folder, 0)
    kinds = [event.kind for event in folder.events(ATTEMPT).records if event.kind != "heartbeat"]
    assert kinds == ["start", "phase", "phase", "ready", *["phase"] * 4, "exit", "script_exit"]
    first = folder.events(ATTEMPT).records[0]
    assert first.data["job_id"] == "job7_2"
    assert first.data["num_ranks"] == 2
    reading = folder.steps(ATTEMPT)
    assert [step.step for step in reading.records] == list(range(1, 41))
    assert reading.rejected == 0
    assert all(0 < step.time_min_s <= step.time_mean_s <= step.time_s for step in reading.records)
    assert all(step.weight == 64 and step.applied for step in reading.records)
    record = folder.record()
    assert record is not None
    assert (record.cause, record.attempt, record.steps) == (Cause.OK, ATTEMPT, 40)
    assert record.loss_first == reading.records[0].loss
    assert record.loss_last == reading.records[-1].loss
    assert record.loss_last is not None
    assert record.loss_last < record.loss_first / 2, "it learns"
    assert set(record.phases) == {"start", "fabric", "build", "train", "evaluate", "finish"}
    wall_s = record.ended - record.started
    assert sum(record.phases.values()) == pytest.approx(wall_s, rel=0.01), "phases add up to the wall time"
    row = reduce_run(folder)
    assert row.phases["idle"] < 0.01 * wall_s
    assert row.total_s == pytest.approx(wall_s, rel=1e-9), "nobody knows when the scheduler took it"
    assert row.goodput_updates_per_s == pytest.approx(40 / wall_s)
    assert record.evaluation is not None
    assert (record.evaluation.num_samples, record.evaluation.metric) == (359, "accuracy")
    assert record.evaluation.value is not None
    assert 0.5 < record.evaluation.value <= 1
    assert [facts.rank for facts in record.ranks] == [0, 1]
    assert all(facts.peak_memory_bytes > 50e6 and facts.threads == 1 for facts in record.ranks)
    assert record.fabric is not None
    assert (record.fabric.backend, row.fabric_transports) == ("gloo", "lo"), "two processes of one machine"
    assert record.fabric.bus_bytes_per_s == pytest.approx(record.fabric.num_bytes / record.fabric.time_s)
    held = record.ranks[0].held_bytes
    assert held["parameters"] == held["gradients"] == sum(4 * size for size in (64 * 128 + 128, 6 * 128 * 129, 1290))
    assert held["optimizer"] == pytest.approx(2 * held["parameters"], rel=0.001), "two moments and counts of steps"
    assert row.cpu_utilisation is not None
    assert 0 < row.cpu_utilisation < 1.5
    assert row.load_balance is not None
    assert 0 < row.load_balance <= 1
    assert len(record.provenance["hpcpar_sha256"]) == 16
    assert set(record.provenance) >= {"system", "environment"}
    assert record.data["name"] == "digits"
    assert {"python", "torch", "hpcpar", "numpy"} <= set(record.versions)
    assert not folder.rendezvous_path(ATTEMPT).exists()
    assert decide(folder).state == "done"


def test_llama_tiny_learns_from_text_of_ones_own_on_one_process(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
    options = {"data": {"path": str(text)}, "layers": 2, "dim": 32, "heads": 2, "kv_heads": 1, "hidden": 48, "lr": 0.01}
    folder = make_run(
        tmp_path / "run", "single", None, "llama-tiny", options, ranks_per_node=1, steps=60, global_batch=16
    )
    assert finish(folder, start(folder)) == 0, logs(folder, 0)
    record = folder.record()
    assert record is not None
    assert record.loss_first == pytest.approx(5.55, abs=0.2), "ln(256): it knows nothing yet"
    assert record.loss_last is not None
    assert record.loss_last < 3
    windows = (45 * 400 - 1) // 32
    assert record.data["num_samples"] == windows - windows // 5
    assert record.evaluation is not None
    assert record.evaluation.num_samples == windows // 5
    assert record.evaluation.loss is not None
    assert record.evaluation.loss < 3, "the held out text is the same sentence"


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.full), 1])
def test_a_rank_that_is_killed_leaves_readable_steps_and_a_cause(tmp_path: Path, rank: int) -> None:
    fatal = 50
    folder = make_run(tmp_path / "run", "chaos", {"deed": "kill", "rank": rank, "step": fatal}, steps=1000)
    assert finish(folder, start(folder)) == 128 + signal.SIGKILL
    reading = folder.steps(ATTEMPT)
    recorded = len(reading.records)
    assert [step.step for step in reading.records] == list(range(1, recorded + 1))
    assert reading.rejected == 0
    lost = fatal - 1 - recorded
    assert lost <= min(recorded + 1, MAX_STEPS), "as the docstring of measure.loop promises"
    outcome = decide(folder)
    assert (outcome.state, outcome.cause) == ("failed", Cause.KILLED)
    assert "signal 9" in outcome.message
    assert folder.record() is None


def test_an_error_in_one_rank_is_the_cause_and_the_others_are_its_echo(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "chaos", {"deed": "blunder", "rank": 1, "step": 3}, steps=1000)
    assert finish(folder, start(folder)) == 1
    outcome = decide(folder)
    assert outcome.cause == Cause.PYTHON_ERROR
    assert outcome.message.startswith("rank 1 on ")
    assert "ZeroDivisionError: the deed" in outcome.message
    assert folder.rank_events_path(ATTEMPT, 1).exists()
    assert "the deed" in logs(folder, 1)


def test_a_rank_stuck_in_a_collective_still_says_that_it_was_ended(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "chaos", {"deed": "hang", "rank": 1, "step": 4}, steps=1000)
    process = start(folder)
    _wait_for_step(folder, 3)
    process.send_signal(signal.SIGTERM)
    assert finish(folder, process) == 128 + signal.SIGTERM
    errors = [event for event in folder.events(ATTEMPT).records if event.kind == "error"]
    assert [(event.rank, event.data["cause"]) for event in errors] == [(0, "killed")]
    assert "SIGTERM" in errors[0].data["message"]


@pytest.mark.full  # ranks that hang stay ten seconds for each other
def test_a_rank_that_hangs_ends_the_run_with_the_stacks_of_every_rank(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "chaos", {"deed": "hang", "rank": 1, "step": 4}, ranks_per_node=3, steps=1000)
    assert finish(folder, start(folder, HPCPAR_HANG_AFTER_S="3")) == 1
    outcome = decide(folder)
    assert outcome.cause == Cause.HUNG
    assert outcome.message.startswith("rank 1 on "), "the one that waits for nobody"
    assert outcome.message.endswith("step 4 did not end within 3 s")
    errors = {event.rank: event.data for event in folder.events(ATTEMPT).records if event.kind == "error"}
    assert sorted(errors) == [0, 1, 2]
    assert {rank: "echo" in data for rank, data in errors.items()} == {0: True, 1: False, 2: True}
    assert "in hang\n    time.sleep(600)" in errors[1]["traceback"]
    assert "loss_sum" in errors[0]["traceback"] or "backward" in errors[0]["traceback"]


def test_missing_data_is_a_cause_of_its_own(tmp_path: Path) -> None:
    options = {"data": {"path": str(tmp_path / "nowhere")}}
    folder = make_run(tmp_path / "run", "single", None, "llama-tiny", options, ranks_per_node=1)
    assert finish(folder, start(folder)) == 1
    outcome = decide(folder)
    assert outcome.cause == Cause.DATA
    assert "nowhere" in outcome.message


def test_a_rank_that_never_arrives_is_named(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "ddp", nodes=2, ranks_per_node=1, time_s=12.0)
    late = ["sh", "-c", 'test "$SUBMITIT_LOCAL_GLOBALID" = 1 && exec sleep 600; exec "$@"', "sh"]
    assert finish(folder, start(folder, [*late, *worker_command(folder)])) == 1
    outcome = decide(folder)
    assert outcome.cause == Cause.NETWORK
    assert "rank 1 " in outcome.message
    assert "did not arrive within 6 s" in outcome.message


def test_a_full_disk_ends_the_run_with_a_sentence_and_harms_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "single", ranks_per_node=1)
    folder.steps_path(ATTEMPT).symlink_to("/dev/full")
    assert finish(folder, start(folder)) == UNWRITABLE_CODE
    assert decide(folder).cause == Cause.STORAGE
    assert "No space left on device" in logs(folder, 0)
    assert folder.record() is None
    assert folder.events(ATTEMPT).rejected == 0


def test_asking_for_gpus_where_there_are_none_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "single", ranks_per_node=1, gpus_per_node=1)
    process = start(folder)
    code = finish(folder, process)
    if "cuda" in [facts.device for facts in (folder.record().ranks if folder.record() else [])]:
        pytest.skip("this machine has a GPU")
    assert code == 1
    assert "asked for 1 GPUs a node" in decide(folder).message


def _wait_for_step(folder: RunFolder, step: int) -> None:
    deadline = time.monotonic() + 60
    while folder.last_step(ATTEMPT) < step:
        assert time.monotonic() < deadline, logs(folder, 0)
        time.sleep(0.05)
