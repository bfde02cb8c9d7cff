"""Strategies of one process as a job runs them: what they have to say is in the record."""

from __future__ import annotations

from pathlib import Path

import pytest
from worker_runs import finish, logs, make_run, start

NOTES = {
    "layerwise": "layerwise: all parts are on the same device (cpu)",
    "dp": "dp: this process sees one device (cpu): it is one replica",
}


@pytest.mark.parametrize("strategy", NOTES)
def test_the_record_says_that_a_cpu_is_one_device(tmp_path: Path, strategy: str) -> None:
    folder = make_run(tmp_path / "run", strategy, ranks_per_node=1, steps=5)
    assert finish(folder, start(folder)) == 0, logs(folder, 0)
    record = folder.record()
    assert record is not None
    assert [note for note in record.notes if note.startswith(NOTES[strategy])] == record.notes
