"""What the ranks of the pool do with checkpoints; see `cases`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import torch
from torch import distributed

from hpcpar.worker.checkpoint import tensors
from hpcpar.worker.checkpoint.manifest import Manifest, Origin, unseal
from hpcpar.worker.checkpoint.shelf import Shelf

Losses = list[tuple[float, float]]


def _group(world_size: int) -> Any:
    return None if world_size == 1 else distributed.group.WORLD


def _steps(trainer: Any, steps: range) -> Losses:
    results = [trainer.step(trainer.batch(step)) for step in steps]
    return [(0.0 if r.loss_sum is None else float(r.loss_sum), r.weight) for r in results]


def train_and_save(rank: int, *, folder: str, steps: int, **arguments: Any) -> Losses:
    """Train, then save; a world of one rank is rank 0 alone."""
    if rank >= arguments["world_size"]:
        return []
    trainer = cases.build(rank, **arguments)
    losses = _steps(trainer, range(1, steps + 1))
    save(trainer.learned, Shelf(Path(folder)), steps, _group(arguments["world_size"]))
    return losses


def save(learned: Any, shelf: Shelf, step: int, group: Any) -> None:
    origin = Origin(key="k", step=step, time=1.0, lineage=(), loss_first=None, loss_last=None)

    def finish(saved: Any, files: Any) -> None:
        kind = type(learned.optimizer).__name__
        shelf.publish(writing, Manifest(origin=origin, optimizer=kind, tensors=saved, files=files), keep=2)

    writing = shelf.writing(step, "1.0")
    tensors.save(learned, writing, group, finish)


def load_and_train(rank: int, *, folder: str, done: int, steps: int, plant: str = "", **arguments: Any) -> Losses:
    """Load on this mesh and go on; `plant` forgets what it names."""
    if rank >= arguments["world_size"]:
        return []
    trainer = cases.build(rank, **arguments)
    shelf = Shelf(Path(folder))
    manifest = unseal(shelf.sealed_manifest(done))
    shelf.check(manifest, manifest.files)
    before = {name: parameter.detach().clone() for name, parameter in trainer.learned.parameters.items()}
    tensors.load(trainer.learned, shelf.folder(done), manifest, _group(arguments["world_size"]))
    if plant == "optimizer":
        trainer.learned.optimizer.state.clear()
    if plant == "one parameter":
        name = max(before, key=lambda name: before[name].numel())
        with torch.no_grad():
            trainer.learned.parameters[name].copy_(before[name])
    return _steps(trainer, range(done + 1, steps + 1))


def buffers(rank: int, *, folder: str, steps: int, **arguments: Any) -> Any:
    """Train and save; load into a fresh trainer; return its buffers beside those that were trained, by name."""
    if rank >= arguments["world_size"]:
        return None
    trained, fresh = cases.build(rank, **arguments), cases.build(rank, **arguments)
    _steps(trained, range(1, steps + 1))
    shelf, group = Shelf(Path(folder)), _group(arguments["world_size"])
    save(trained.learned, shelf, steps, group)
    if group is not None:
        distributed.barrier()
    tensors.load(fresh.learned, shelf.folder(steps), unseal(shelf.sealed_manifest(steps)), group)
    return {name: (fresh.learned.buffers[name].tolist(), b.tolist()) for name, b in trained.learned.buffers.items()}
