"""The keeper and its shelf in this process: what is kept, what is swept, what is never loaded."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import msgspec
import pytest
import torch
from worker_runs import make_run

from hpcpar import storage
from hpcpar.errors import RunError, StorageError
from hpcpar.records import Cause, RunRecord, Span
from hpcpar.runs import RunFolder
from hpcpar.spec import Checkpointing
from hpcpar.worker.checkpoint.keeper import Job, Keeper, make_keeper
from hpcpar.worker.checkpoint.manifest import Manifest, SavedFile, seal, unseal
from hpcpar.worker.checkpoint.shelf import Shelf
from hpcpar.worker.journal import Journal
from hpcpar.worker.measure.clock import CpuClock
from hpcpar.worker.measure.loop import Losses, train
from hpcpar.worker.measure.phases import Phases
from hpcpar.worker.measure.window import exchange_alone
from hpcpar.worker.signals import Stop
from hpcpar.worker.team import Team

EVERY, STEPS = 4, 10
SMALL = {"hidden": 16, "layers": 2}


class Attempt:
    """One attempt at a run, in this process."""

    def __init__(
        self, folder: RunFolder, number: int, keep: int = 2, every: int | None = EVERY, hidden: int = 16
    ) -> None:
        spec = folder.spec()
        assert spec is not None
        self.folder, self.name = folder, f"1.{number}"
        wanted = Checkpointing(every=every, keep=keep)
        info = msgspec.structs.replace(cases.rank_info(0, 1), attempt=self.name, checkpoint=wanted)
        journal, self.stop = Journal(folder, info), Stop()
        self.phases = Phases(lambda name, seconds: None)
        team = Team(info=info, device=torch.device("cpu"), reports=[], exchange=exchange_alone)
        arguments: dict[str, Any] = {"strategy": "single", "strategy_options": {}, "workload": "mlp"}
        self.trainer = cases.build(
            0, world_size=1, workload_options={**SMALL, "hidden": hidden}, global_batch=8, grad_accum=1, **arguments
        )
        made = make_keeper(Job(folder, spec, team, journal, self.phases), self.trainer, self.stop)
        assert made is not None
        self.keeper: Keeper = made
        self.losses: list[float | None] = []

    def run(self, steps: int = STEPS) -> Losses:
        self.keeper.restore()
        sink = lambda records: self.losses.extend(record.loss for record in records)  # noqa: E731
        return train(self.trainer, steps, CpuClock(), exchange_alone, sink, checkpoints=self.keeper)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.folder.events(self.name).records if event.kind == kind]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run", "single", workload_options=SMALL, ranks_per_node=1, steps=STEPS)


@pytest.fixture
def interrupted(folder: RunFolder) -> RunFolder:
    """A run that was killed right after its tenth update, and has checkpoints of the fourth and the eighth."""
    attempt = Attempt(folder, 0, keep=3)
    attempt.run()
    (folder.checkpoints / "step-0000000010").rename(folder.checkpoints / "writing-0000000010.1.0")
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float | None]:
    folder = make_run(tmp_path_factory.mktemp("whole"), "single", workload_options=SMALL, ranks_per_node=1)
    attempt = Attempt(folder, 0)
    attempt.run()
    return attempt.losses


def names(folder: RunFolder) -> list[str]:
    return sorted(os.listdir(folder.checkpoints))


def test_the_last_ones_are_kept_and_folders_are_private(folder: RunFolder) -> None:
    attempt = Attempt(folder, 0)
    attempt.run()
    assert names(folder) == ["step-0000000008", "step-0000000010"], "every fourth, and the last update"
    assert [data["step"] for data in attempt.told("checkpoint")] == [4, 8, 10]
    assert {path.stat().st_mode & 0o777 for path in (folder.checkpoints, *folder.checkpoints.iterdir())} == {0o700}
    assert attempt.phases.seconds["checkpoint"] > 0


def test_it_goes_on_after_the_last_and_sweeps_what_was_half_written(
    interrupted: RunFolder, undisturbed: list[float | None]
) -> None:
    second = Attempt(interrupted, 1)
    losses = second.run()
    assert second.losses == undisturbed[8:]
    assert losses == Losses(undisturbed[0], undisturbed[-1])
    assert names(interrupted) == ["step-0000000008", "step-0000000010"]
    spans = (Span(attempt="1.0", first=1, last=8), Span(attempt="1.1", first=9, last=10))
    assert second.keeper.lineage(STEPS) == spans
    third = Attempt(interrupted, 2)
    assert third.run() == losses, "there is nothing left to do"
    assert (third.losses, third.keeper.lineage(STEPS)) == ([], spans)


def _flip(folder: Path) -> None:
    (data,) = folder.glob("*.distcp")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


def _cut(folder: Path) -> None:
    (data,) = folder.glob("*.distcp")
    data.write_bytes(data.read_bytes()[:-1])


def _lose(folder: Path) -> None:
    next(folder.glob("*.distcp")).unlink()


def _lie(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"step":8', b'"step":9'))


def _tear(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])


def _reseal(folder: Path, **changes: Any) -> None:
    """Change a manifest as somebody would who may write into the folder."""
    path = folder / "manifest.json"
    path.write_bytes(seal(msgspec.structs.replace(unseal(path.read_bytes()), **changes)))


def _of_another_run(folder: Path) -> None:
    origin = unseal((folder / "manifest.json").read_bytes()).origin
    _reseal(folder, origin=msgspec.structs.replace(origin, key="0123456789"))


def _lead_out(folder: Path) -> None:
    manifest = unseal((folder / "manifest.json").read_bytes())
    _reseal(folder, files={**manifest.files, "../../spec.json": SavedFile(sha256="", num_bytes=0)})


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (_flip, "does not have the digest that was written with it"),
    (_cut, "were written"),
    (_lose, "cannot be read: No such file or directory"),
    (_lie, "its manifest does not have the digest that was written with it"),
    (_tear, "its manifest cannot be read"),
    (_of_another_run, "it was taken after step 8 of run 0123456789"),
    (_lead_out, "its manifest names files that no checkpoint has"),
]


@pytest.mark.parametrize(("harm", "words"), DAMAGES, ids=[harm.__name__.strip("_") for harm, _ in DAMAGES])
def test_a_damaged_one_is_never_loaded_and_the_one_before_is(
    interrupted: RunFolder, undisturbed: list[float | None], harm: Callable[[Path], None], words: str
) -> None:
    harm(interrupted.checkpoints / "step-0000000008")
    second = Attempt(interrupted, 1)
    second.run()
    assert second.losses == undisturbed[4:]
    rejected = [data for data in second.told("checkpoint") if data["outcome"] == "rejected"]
    assert [data["step"] for data in rejected] == [8]
    assert words in rejected[0]["reason"]
    assert [data["step"] for data in second.told("resume")] == [4]
    assert "aside-0000000008.1.1" in names(interrupted)


def test_where_all_are_damaged_it_begins_anew(interrupted: RunFolder, undisturbed: list[float | None]) -> None:
    for one in interrupted.checkpoints.glob("step-*"):
        _flip(one)
    second = Attempt(interrupted, 1)
    second.run()
    assert second.losses == undisturbed
    assert second.told("resume") == []


class _Deed:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoint_is_executed(interrupted: RunFolder, tmp_path: Path) -> None:
    """Even with all digests right, as somebody would write it who may write into the folder."""
    for one in interrupted.checkpoints.glob("step-*"):
        (data,) = one.glob("*.distcp")
        data.write_bytes(pickle.dumps(_Deed(tmp_path / "done")))
        (one / ".metadata").write_bytes(pickle.dumps(_Deed(tmp_path / "done")))
        size = data.stat().st_size
        whole = unseal((one / "manifest.json").read_bytes())
        files = {data.name: SavedFile(sha256=hashlib.sha256(data.read_bytes()).hexdigest(), num_bytes=size)}
        tensors = {
            name: msgspec.structs.replace(
                saved, chunks=tuple(msgspec.structs.replace(chunk, begin=0, length=size) for chunk in saved.chunks)
            )
            for name, saved in whole.tensors.items()
        }
        _reseal(one, files=files, tensors=tensors)
    with pytest.raises(RuntimeError, match="a checkpoint could not be read"):
        Attempt(interrupted, 1).run()
    assert not (tmp_path / "done").exists()


def test_a_checkpoint_of_another_shape_is_an_error_that_says_so(interrupted: RunFolder) -> None:
    with pytest.raises(RunError, match=r"checkpoint of step 8: the checkpoint is of another model: .* has the shape"):
        Attempt(interrupted, 1, hidden=32).run()


def test_links_are_not_followed(interrupted: RunFolder, tmp_path: Path) -> None:
    newest = interrupted.checkpoints / "step-0000000008"
    newest.rename(tmp_path / "elsewhere")
    newest.symlink_to(tmp_path / "elsewhere")
    assert Shelf(interrupted.checkpoints).steps() == [4]


def test_a_result_is_not_gone_on_from(interrupted: RunFolder, undisturbed: list[float | None]) -> None:
    spec = interrupted.spec()
    assert spec is not None
    record = RunRecord(
        key=spec.key,
        study="study",
        attempt="1.0",
        job_id="1",
        cause=Cause.OK,
        started=0.0,
        ended=4e9,
        steps=STEPS,
        phases={},
        loss_first=None,
        loss_last=None,
        ranks=[],
        oversubscribed=False,
    )
    storage.write_file(interrupted.record_path, msgspec.json.encode(record))
    second = Attempt(interrupted, 1)
    second.run()
    assert second.losses == undisturbed
    reasons = {data["reason"] for data in second.told("checkpoint") if data["outcome"] == "rejected"}
    assert reasons == {"it is older than the run's result: the run begins anew"}


def test_a_signal_ends_the_training_with_a_checkpoint(folder: RunFolder, undisturbed: list[float | None]) -> None:
    first = Attempt(folder, 0, every=None)
    first.stop.signal_name = "SIGUSR1"
    first.run()
    assert (first.keeper.stopped_at, first.keeper.safe, names(folder)) == (1, True, ["step-0000000001"])
    second = Attempt(folder, 1, every=None)
    second.run()
    assert [*first.losses, *second.losses] == undisturbed
    second.keeper.forget()
    assert names(folder) == [], "nobody asked for it: it was there for the run's sake"


@pytest.mark.parametrize("boundary", ["write_file", "rename", "rmtree"])
def test_a_kill_at_any_boundary_leaves_a_whole_one(
    folder: RunFolder, undisturbed: list[float | None], boundary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of ours runs between such an error and the end of the training: the disk is as a kill leaves it."""
    calls: list[str] = []

    def deadly(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            calls.append(name)
            if name == boundary and calls.count("write_file") == 2:  # the second checkpoint's
                raise ZeroDivisionError("killed here")
            return real(*arguments, **more)

        return call

    first = Attempt(folder, 0, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_file", deadly("write_file", storage.write_file))
        patch.setattr(Path, "rename", deadly("rename", Path.rename))
        patch.setattr("shutil.rmtree", deadly("rmtree", shutil.rmtree))
        with pytest.raises(RuntimeError, match="killed here"):
            first.run()
    left = {"write_file": [4], "rename": [4], "rmtree": [8]}
    assert Shelf(folder.checkpoints).steps() == left[boundary]
    second = Attempt(folder, 1)
    second.run()
    assert [*undisturbed[: left[boundary][0]], *second.losses] == undisturbed


def test_a_disk_that_says_no_costs_the_checkpoint_alone(
    folder: RunFolder, undisturbed: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Shelf, writing: Path, manifest: Manifest, keep: int) -> None:
        raise StorageError(writing, OSError(28, "No space left on device"))

    monkeypatch.setattr(Shelf, "publish", full)
    attempt = Attempt(folder, 0)
    attempt.run()
    assert attempt.losses == undisturbed
    assert [data["outcome"] for data in attempt.told("checkpoint")] == ["failed"] * 3
    assert "No space left on device" in attempt.told("checkpoint")[0]["reason"]
    assert names(folder) == []
