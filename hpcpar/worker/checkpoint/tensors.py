"""Tensors to files and back through torch.distributed.checkpoint, on any mesh, without pickles on disk. Imports torch.

torch writes which rank has which rectangle of which tensor, and reads from there the rectangles that another mesh
needs. Its own metadata is a pickle; here that is manifest.json. Tensors are read with `weights_only`, and there is
nothing else: the state of an optimizer is tensors by parameter name, so that its groups, which depend on the mesh, are
not in the format.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata

from hpcpar import storage
from hpcpar.errors import StorageError
from hpcpar.worker.checkpoint.manifest import Chunk, DamagedError, Manifest, SavedFile, SavedTensor
from hpcpar.worker.learned import Learned

_PARAMETER, _BUFFER, _STATE = "model.", "buffer.", "optimizer."


class SaveError(Exception):
    """A checkpoint could not be written on some rank; every rank raises it, and nothing is lost but the checkpoint."""


def save(
    learned: Learned, folder: Path, group: Any, finish: Callable[[Mapping[str, Any], Mapping[str, Any]], None]
) -> None:
    """Write the ranks' files into `folder`, on all ranks at once; then rank 0 calls finish(tensors, files).

    Raises:
        SaveError: the disk said no to a rank, or to `finish`.
        RuntimeError: anything else, a lost rank for instance.
    """
    try:
        with _quiet():
            dcp.save(
                _tensors(learned),
                storage_writer=_Writer(folder, finish),
                planner=dcp.DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=group,
                no_dist=group is None,
            )
    except dcp.api.CheckpointException as error:
        reasons = [failure for failure, _ in error.failures.values()]
        said = "; ".join(f"rank {rank}: {failure}" for rank, (failure, _) in sorted(error.failures.items()))
        if all(isinstance(reason, OSError | StorageError) for reason in reasons):
            raise SaveError(said) from None
        raise RuntimeError(f"a checkpoint could not be written: {said}") from error


def load(learned: Learned, folder: Path, manifest: Manifest, group: Any) -> None:
    """Read a checkpoint whose files were checked into parameters and optimizer, on all ranks at once.

    Raises:
        ValueError: it is of another model or optimizer.
        RuntimeError: it could not be read after all.
    """
    _refuse_misfit(learned, manifest)
    states = dict(_empty_states(learned, manifest))
    tensors = {f"{_PARAMETER}{name}": learned.whole(name, p.detach()) for name, p in learned.parameters.items()}
    tensors |= {f"{_BUFFER}{name}": buffer for name, buffer in learned.buffers.items()}
    for name, state in states.items():
        tensors |= {f"{_STATE}{name}.{key}": value for key, value in state.items()}
    try:
        with _quiet():
            dcp.load(
                tensors,
                storage_reader=_Reader(folder, manifest),
                planner=dcp.DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=group,
                no_dist=group is None,
            )
    except dcp.api.CheckpointException as error:
        raise RuntimeError(f"a checkpoint could not be read: {error}") from error
    _give_back(learned, states)


def _quiet() -> warnings.catch_warnings[Any]:
    # torch warns where there is one process and nothing to gather.
    return warnings.catch_warnings(action="ignore", category=UserWarning)


# ---------------------------------------------------------------- what is in a checkpoint


def _tensors(learned: Learned) -> dict[str, Any]:
    tensors: dict[str, Any] = {f"{_BUFFER}{name}": buffer for name, buffer in learned.buffers.items()}
    for name, parameter in learned.parameters.items():
        tensors[f"{_PARAMETER}{name}"] = learned.whole(name, parameter.detach())
        for key, value in learned.optimizer.state.get(parameter, {}).items():
            if value is None:
                continue
            assert isinstance(value, torch.Tensor), f"the optimizer keeps {key} of {name} as a {type(value).__name__}"
            same = value.shape == parameter.shape
            tensors[f"{_STATE}{name}.{key}"] = learned.whole(name, value) if same else value
    return tensors


def _empty_states(learned: Learned, manifest: Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield, by parameter, room for what was kept of it: in the parameter's own layout where it has its shape."""
    names: dict[str, list[str]] = {}
    for whole in manifest.tensors:
        if whole.startswith(_STATE):
            name, _, key = whole.removeprefix(_STATE).rpartition(".")
            names.setdefault(name, []).append(key)
    for name, parameter in learned.parameters.items():
        state, whole = {}, learned.whole(name, parameter.detach())
        for key in names.get(name, ()):
            saved = manifest.tensors[f"{_STATE}{name}.{key}"]
            dtype = _dtype(saved.dtype)
            same = saved.size == tuple(whole.shape)
            state[key] = torch.zeros_like(whole, dtype=dtype) if same else torch.zeros(saved.size, dtype=dtype)
        yield name, state


def _give_back(learned: Learned, states: dict[str, dict[str, Any]]) -> None:
    optimizer = learned.optimizer
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    number = {id(parameter): i for i, parameter in enumerate(ordered)}
    # Through the optimizer's own method: it knows which device each part of its state belongs to.
    for name in learned.splits:
        states[name] = {key: getattr(value, "_local_tensor", value) for key, value in states[name].items()}
    kept = {number[id(parameter)]: states[name] for name, parameter in learned.parameters.items() if states[name]}
    optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})


def _refuse_misfit(learned: Learned, manifest: Manifest) -> None:
    kind = type(learned.optimizer).__name__
    if manifest.optimizer != kind:
        raise ValueError(f"the checkpoint is of the optimizer {manifest.optimizer}, this run has {kind}")
    wholes = {name: learned.whole(name, parameter.detach()) for name, parameter in learned.parameters.items()}
    kinds = ((_PARAMETER, wholes), (_BUFFER, learned.buffers))
    for whole, name, tensor in ((f"{kind}{name}", name, t) for kind, named in kinds for name, t in named.items()):
        saved = manifest.tensors.get(whole)
        if saved is None or saved.size != tuple(tensor.shape):
            there = "is not in it" if saved is None else f"has the shape {list(saved.size)} there"
            raise ValueError(f"the checkpoint is of another model: {name} {list(tensor.shape)} {there}")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise DamagedError(f"'{name}' is no type of numbers")
    return found


# ---------------------------------------------------------------- torch's storage, without its pickle


class _Placed(NamedTuple):
    """What a rank tells rank 0 of a rectangle that it wrote."""

    file: str
    begin: int
    length: int
    facts: SavedFile


class _Writer(dcp.FileSystemWriter):
    """torch's files; private folders, digests, and `finish` in place of the pickled metadata."""

    def __init__(self, folder: Path, finish: Callable[[Mapping[str, Any], Mapping[str, Any]], None]) -> None:
        super().__init__(folder, sync_files=True)
        self._finish = finish

    def prepare_local_plan(self, plan: dcp.SavePlan) -> dcp.SavePlan:
        storage.make_folder(Path(self.path))
        return plan

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> Any:
        results = super().write_data(plan, planner).value()
        files = {result.storage_data.relative_path for result in results}
        facts = {name: _facts(Path(self.path) / name) for name in files}
        future: torch.futures.Future[list[Any]] = torch.futures.Future()
        future.set_result([_with_digest(result, facts) for result in results])
        return future

    def finish(self, metadata: metadata.Metadata, results: Sequence[Sequence[Any]]) -> None:
        placed: dict[metadata.MetadataIndex, _Placed] = {r.index: r.storage_data for rank in results for r in rank}
        tensors = {name: _saved(name, saved, placed) for name, saved in metadata.state_dict_metadata.items()}
        self._finish(tensors, {one.file: one.facts for one in placed.values()})


def _with_digest(result: Any, facts: Mapping[str, SavedFile]) -> Any:
    info = result.storage_data
    name = info.relative_path
    return replace(result, storage_data=_Placed(name, info.offset, info.length, facts[name]))


def _facts(path: Path) -> SavedFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return SavedFile(sha256=digest, num_bytes=file.tell())


def _saved(name: str, saved: Any, placed: Mapping[Any, _Placed]) -> SavedTensor:
    chunks = []
    for chunk in saved.chunks:
        file, begin, length, _ = placed[metadata.MetadataIndex(name, chunk.offsets)]
        sizes = tuple(chunk.sizes)
        chunks.append(Chunk(offsets=tuple(chunk.offsets), sizes=sizes, file=file, begin=begin, length=length))
    dtype = str(saved.properties.dtype).removeprefix("torch.")
    return SavedTensor(dtype=dtype, size=tuple(saved.size), chunks=tuple(chunks))


class _Reader(dcp.FileSystemReader):
    """torch's reader of tensors, told by a manifest where they are."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder)
        self._manifest = manifest

    def read_metadata(self) -> metadata.Metadata:
        tensors: dict[str, Any] = {}
        places = {}
        for name, saved in self._manifest.tensors.items():
            chunks = []
            for chunk in saved.chunks:
                offsets = torch.Size(chunk.offsets)
                chunks.append(metadata.ChunkStorageMetadata(offsets, torch.Size(chunk.sizes)))
                place = filesystem._StorageInfo(chunk.file, chunk.begin, chunk.length)
                places[metadata.MetadataIndex(name, offsets)] = place
            properties = metadata.TensorProperties(dtype=_dtype(saved.dtype))
            tensors[name] = metadata.TensorStorageMetadata(properties, torch.Size(saved.size), chunks)
        return metadata.Metadata(tensors, storage_data=places, storage_meta=metadata.StorageMeta())
