"""What the ranks of the pool do for the parity matrix: train a planned run, hand over its losses and final weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import deepspeed_cases
import msgspec
import torch
from cases import plant_wrong_gradient, pooled_context
from matrix import Job
from torch.distributed.tensor.parallel._data_parallel_utils import _unflatten_tensor

from hpcpar import registry
from hpcpar.records import Step
from hpcpar.spec import Identity
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import shard
from hpcpar.worker.neural import Unit

IGNORED = -100
"""The target that torch's cross-entropy leaves out."""


class Trained(NamedTuple):
    """What a rank has to show."""

    losses: list[tuple[float, float]]
    """(loss_sum, weight) of every step."""
    weights: dict[str, Any]
    """Full parameters that this rank has, whole or in part, by their name in the workload, as NumPy arrays."""


def prove(rank: int, *, job: Job, steps: int, plant_on: int | None = None) -> Trained | None:
    """Train `steps` steps of a planned run; ranks beyond its world have nothing to do and return None.

    Args:
        plant_on: the rank whose optimizer uses a wrong gradient.
    """
    world = job.identity.mesh.world_size
    if rank >= world:
        return None
    workload = load(job)
    if plant_on is not None and rank == plant_on % world:
        workload = msgspec.structs.replace(workload, optimizer=_planted(workload.optimizer))
    identity = msgspec.structs.replace(job.identity, steps=steps)
    trainer = build(rank, identity, workload)
    if plant_on is not None and rank == plant_on % world and identity.strategy == "horovod":
        plant_wrong_gradient(trainer._optimizer)  # Horovod makes another one, without the hooks of the first
    results = [trainer.step(trainer.batch(step)) for step in range(1, steps + 1)]
    if rank == 0 and hasattr(trainer, "complete"):
        trainer.complete([Step(step=s, time_s=0, time_min_s=0, time_mean_s=0, slowest=0) for s in range(1, steps + 1)])
    weights = full_weights(trainer, workload.units)
    trainer.close()
    return Trained([(0.0 if r.loss_sum is None else float(r.loss_sum), r.weight) for r in results], weights)


def load(job: Job) -> Any:
    """Load the workload of a planned run."""
    work = registry.get_workload(job.identity.workload)
    loaded = work.load(msgspec.convert(job.identity.workload_options, work.Options), job.identity.seed)
    return _padded(loaded) if job.padded else loaded


def build(rank: int, identity: Identity, workload: Any) -> Any:
    """Build this rank's trainer as the worker does, in the groups that the pool keeps."""
    return build_in(msgspec.structs.replace(pooled_context(rank, identity.mesh), identity=identity), workload)


def build_in(context: JobContext, workload: Any) -> Any:
    """Build a rank's trainer where it stands."""
    strategy = registry.get_strategy(context.identity.strategy)
    if "deepspeed" in strategy.extras:
        deepspeed_cases.forget_the_last_model()
    return strategy.build(context, workload, msgspec.convert(context.identity.strategy_options, strategy.Options))


def named_parameters(trainer: Any) -> dict[str, Any]:
    """Return this rank's parameters, by the names that they have in the trainer."""
    # DDP over tensor parallelism hands the model other objects during a step: the update has kept the right ones.
    update = getattr(trainer, "_update", None)
    every = dict(trainer.model.named_parameters())
    if not hasattr(update, "_named"):
        return every
    return {**{name: p for name, p in every.items() if not p.requires_grad}, **update._named}


def full_weights(trainer: Any, units: Sequence[Unit]) -> dict[str, Any]:
    """Return the whole of every parameter of which this rank has a part; all ranks of its mesh call it alike."""
    if "deepspeed" in type(trainer).__module__:
        return deepspeed_cases.full_weights(trainer, units)
    names = {unit.name for unit in units}
    found = {}
    for name, parameter in named_parameters(trainer).items():
        value = parameter
        if hasattr(parameter, "_st_info"):  # DDP keeps the local part of a distributed tensor, and what it was
            value = _unflatten_tensor(parameter, parameter._st_info)
        value = shard.whole(value).detach()
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        found[plain_name(name, names)] = whole.cpu().numpy().copy()
    return found


def plain_name(name: str, units: set[str]) -> str:
    """Return a parameter's name from its unit on: what wraps a model or cuts it into parts stands before."""
    words = name.split(".")
    begin = next(i for i, word in enumerate(words) if word in units)
    return ".".join(words[begin:])


class _Padding:
    """Samples of which a third is padding, and another part is half padding where samples are sequences."""

    def __init__(self, samples: Any) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def fetch(self, ids: Any) -> tuple[Any, Any]:
        inputs, targets = self._samples.fetch(ids)
        targets = targets.clone()
        kind = torch.from_numpy(ids % 3)
        targets[kind == 0] = IGNORED
        if targets.dim() > 1:
            half = targets[:, targets.shape[1] // 2 :]
            half[kind == 1] = IGNORED
        return inputs, targets

    def facts(self) -> dict[str, Any]:
        return dict(self._samples.facts())


def _padded(workload: Any) -> Any:
    def weigh(targets: Any) -> float:
        return float((targets != IGNORED).sum())

    def loss(output: Any, targets: Any) -> tuple[Any, float]:
        if output.shape == targets.shape:  # a distance, which leaves nothing out: it is 0 where both are the same
            output = torch.where(targets == IGNORED, targets, output)
        return workload.loss(output, targets)[0], weigh(targets)

    samples = _Padding(workload.samples)
    return msgspec.structs.replace(workload, samples=samples, loss=loss, weigh=weigh, sample_weight=None)


def _planted(optimizer: Any) -> Any:
    def make(parameters: Any) -> Any:
        made = optimizer(parameters)
        plant_wrong_gradient(made)
        return made

    return make
