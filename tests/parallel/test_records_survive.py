"""kill -9 at every touch of the disk: whatever is left is readable, explained, and no more than was done."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import dying_worker
import pytest
from worker_runs import ATTEMPT, make_run

from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.outcome import decide
from hpcpar.records import Cause, Event, append
from hpcpar.runs import RunFolder

STEPS = 6
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def context() -> Any:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["torch", "hpcpar.worker.main", "hpcpar.worker.mesh_engine.build"])
    return found


def _run(context: Any, path: Path, fatal: int) -> tuple[RunFolder, int | None]:
    """Run until it is killed; return its folder, and how often it touched the disk where it came to its end."""
    options = {"hidden": 8, "layers": 1}
    folder = make_run(path, "single", workload_options=options, ranks_per_node=1, steps=STEPS, global_batch=8)
    here, there = context.Pipe()
    process = context.Process(target=dying_worker.live, args=(str(path), fatal, there))
    process.start()
    process.join(120)
    assert process.exitcode == (-signal.SIGKILL if fatal else 0)
    append(folder.events_path(ATTEMPT), Event(time=2e9, kind="script_exit", data={"code": 137 if fatal else 0}))
    return folder, here.recv() if not fatal else None


@pytest.mark.timeout(1500)
def test_a_run_that_is_killed_at_any_touch_of_the_disk_leaves_what_can_be_read(context: Any, tmp_path: Path) -> None:
    whole, touches = _run(context, tmp_path / "whole", 0)
    expected = whole.record()
    assert touches is not None
    assert touches > 40
    assert expected is not None
    with_record = 0
    for fatal in range(1, touches + 1):
        folder, _ = _run(context, tmp_path / str(fatal), fatal)
        events, steps, record, outcome = folder.events(ATTEMPT), folder.steps(ATTEMPT), folder.record(), decide(folder)
        assert events.rejected + steps.rejected <= 1, "the line that was being written"
        assert [step.step for step in steps.records] == list(range(1, len(steps.records) + 1))
        row = reduce_run(folder)
        assert row.state == outcome.state
        if record is None:
            assert (outcome.state, outcome.cause) == ("failed", Cause.KILLED), fatal
            assert "signal 9" in outcome.message
            assert not folder.record_path.exists()
        else:
            with_record += 1
            assert record.loss_last == expected.loss_last
            assert row.step_time_s is not None or row.message
    assert 0 < with_record < touches / 4, "the record is the last thing that is written"
