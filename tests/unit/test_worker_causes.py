"""From exceptions to causes, to events, to what a person reads. Messages are recorded ones of torch 2.13."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from worker_spec import make_info, make_spec

from hpcpar.errors import RunError, StorageError
from hpcpar.outcome import decide
from hpcpar.records import Cause, Event, append
from hpcpar.runs import RunFolder
from hpcpar.spec import RunSpec, Submission
from hpcpar.worker.causes import classify
from hpcpar.worker.journal import Journal
from hpcpar.worker.rank import RankInfo


@pytest.fixture
def spec() -> RunSpec:
    return make_spec()


class OutOfMemoryError(RuntimeError):
    """Stands for torch.OutOfMemoryError: the class is known by its name."""


class DistBackendError(RuntimeError):
    """Stands for torch.distributed.DistBackendError."""


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:35187"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RunError("data", "x"), Cause.DATA),
        (MemoryError(), Cause.OOM_HOST),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
            Cause.OOM_HOST,
        ),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), Cause.OOM_DEVICE),
        (RuntimeError(GLOO), Cause.NETWORK),
        (RuntimeError("Timed out waiting 5000ms for recv operation to complete"), Cause.NETWORK),
        (DistBackendError("NCCL error in: ..."), Cause.NETWORK),
        (ConnectionResetError("Connection reset by peer"), Cause.NETWORK),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"), Cause.PYTHON_ERROR),
        (StorageError("x", OSError(28, "No space left on device")), Cause.STORAGE),
        (OSError(122, "Disk quota exceeded"), Cause.STORAGE),
        (FileNotFoundError("x"), Cause.PYTHON_ERROR),
    ],
)
def test_classes(error: BaseException, cause: Cause) -> None:
    assert classify(error) == cause


def _info(rank: int = 0) -> RankInfo:
    return make_info(rank=rank)


def _folder(path: Path, spec: RunSpec) -> RunFolder:
    folder = RunFolder(path / "run")
    folder.write_spec(spec)
    append(folder.submission_path, Submission(time=0.0, batch="b", scheduler="local", job_id="5"))
    Journal(folder, _info()).write("start")
    return folder


def _script_exit(folder: RunFolder, code: int) -> None:
    append(folder.events_path("5.0"), Event(time=2e9, kind="script_exit", data={"code": code}))


@pytest.mark.parametrize(
    ("error", "code", "cause", "words"),
    [
        (RuntimeError(GLOO), 137, Cause.KILLED, "signal 9"),
        (RuntimeError(GLOO), 1, Cause.NETWORK, "Connection closed by peer"),
        (RunError("network", "rank 1 did not arrive"), 137, Cause.NETWORK, "rank 1 did not arrive"),
        (ValueError("x"), 137, Cause.PYTHON_ERROR, "ValueError: x"),
        (None, 124, Cause.TIMEOUT, "time limit"),
        (None, 74, Cause.STORAGE, "could not write into its run folder"),
    ],
    ids=["echo of a kill", "echo alone", "own words", "error", "local time limit", "full disk"],
)
def test_an_echo_never_hides_what_happened(
    tmp_path: Path, spec: RunSpec, error: BaseException | None, code: int, cause: Cause, words: str
) -> None:
    folder = _folder(tmp_path, spec)
    journal = Journal(folder, _info())
    if error is not None:
        journal.fail(error)
    elif code > 123:
        journal.killed("SIGTERM")
    _script_exit(folder, code)
    outcome = decide(folder)
    assert outcome.cause == cause
    assert words in outcome.message


def test_another_rank_writes_only_when_it_fails(tmp_path: Path, spec: RunSpec) -> None:
    folder = _folder(tmp_path, spec)
    journal = Journal(folder, _info(rank=1))
    journal.write("phase", name="start", seconds=1.0)
    journal.killed("SIGTERM")
    assert not folder.rank_events_path("5.0", 1).exists()
    journal.fail(ValueError("x"))
    assert [event.kind for event in folder.events("5.0").records] == ["start", "error", "exit"]


def test_last_words_that_cannot_be_written_go_to_stderr(
    tmp_path: Path, spec: RunSpec, capsys: pytest.CaptureFixture[Any]
) -> None:
    folder = _folder(tmp_path, spec)
    folder.rank_events_path("5.0", 1).symlink_to("/dev/full")
    assert Journal(folder, _info(rank=1)).fail(ValueError("the reason")) == Cause.PYTHON_ERROR
    said = capsys.readouterr().err
    assert "the reason" in said
    assert "No space left on device" in said
