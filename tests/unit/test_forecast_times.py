"""What finished runs took is read once, and never more of them than the newest few."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from records_oracle import change_record, ideal

from hpcpar.control.forecast import times
from hpcpar.runs import RunFolder, StudyFolder


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setenv("HPCPAR_STATE", str(tmp_path / "state"))
    runs = ideal().write(tmp_path / "runs")
    return StudyFolder(runs[0].path.parent)


def kind(study: StudyFolder) -> tuple[str, str]:
    spec = study.runs()[0].spec()
    assert spec is not None
    return spec.identity.cluster, spec.identity.node_type


def test_repeats_are_one_cell_and_the_mean_leaves_the_warm_up_out(study: StudyFolder) -> None:
    found = times.taken([study], *kind(study))
    assert len(found) == len(study.runs()) == 9
    assert len({one.cell for _, one in found}) == 3
    for run, one in found:
        spec = run.spec()
        assert one.step_s == pytest.approx(2**-8 * spec.identity.global_batch / spec.identity.world_size)


def test_another_kind_of_node_says_nothing(study: StudyFolder) -> None:
    cluster, node_type = kind(study)
    assert times.taken([study], "elsewhere", node_type) == []
    assert times.taken([study], cluster, "gpu80") == []


def test_a_run_is_read_once_until_it_has_another_result(study: StudyFolder, monkeypatch) -> None:
    first = times.taken([study], *kind(study))
    read: list[RunFolder] = []
    look = times._look
    monkeypatch.setattr(times, "_look", lambda run, stamp: read.append(run) or look(run, stamp))
    assert [one for _, one in times.taken([study], *kind(study))] == [one for _, one in first]
    assert read == []
    change_record(first[0][0], started=0.0)
    later = first[0][1].stamp + 1_000_000_000  # the clock of a file system ticks every few milliseconds only
    os.utime(first[0][0].record_path, ns=(later, later))
    times.taken([study], *kind(study))
    assert [run.path for run in read] == [first[0][0].path]


def test_the_newest_count_and_no_more_than_some_are_looked_at(study: StudyFolder, monkeypatch) -> None:
    monkeypatch.setattr(times, "MOST_LOOKED", 4)
    newest = sorted(study.runs(), key=lambda run: (run.record_path.stat().st_mtime_ns, run.path.name))[-4:]
    found = times.taken([study], *kind(study))
    assert {run.path for run, _ in found} == {run.path for run in newest}
