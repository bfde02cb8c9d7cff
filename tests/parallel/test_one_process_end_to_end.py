"""Strategies of one process as a job runs them: what they have to say is in the record."""

from __future__ import annotations

from pathlib import Path

from worker_runs import finish, logs, make_run, start


def test_the_record_says_that_a_cpu_is_one_device(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "layerwise", ranks_per_node=1, steps=5)
    assert finish(folder, start(folder)) == 0, logs(folder, 0)
    record = folder.record()
    assert record is not None
    note = "layerwise: all parts are on the same device (cpu), so nothing was spread"
    assert [words for words in record.notes if words.startswith(note)] == record.notes
