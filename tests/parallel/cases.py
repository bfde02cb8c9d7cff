"""What the ranks of the pool do. Every function is called on all ranks at once."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any
from unittest import mock

import msgspec
import torch

from hpcpar import composition, registry
from hpcpar.mesh import Mesh
from hpcpar.registry import World
from hpcpar.spec import Identity
from hpcpar.worker.context import JobContext, make_context
from hpcpar.worker.mesh_engine import compiling
from hpcpar.worker.mesh_engine.clip import Clipper
from hpcpar.worker.mesh_engine.shard import local
from hpcpar.worker.rank import RankInfo


def identity(
    strategy: str,
    strategy_options: dict[str, Any],
    workload: str,
    workload_options: dict[str, Any],
    mesh: Mesh,
    global_batch: int,
    grad_accum: int,
) -> Identity:
    return Identity(
        cluster="local",
        node_type="any",
        workload=workload,
        workload_options=workload_options,
        strategy=strategy,
        strategy_options=strategy_options,
        mesh=mesh,
        nodes=1,
        ranks_per_node=mesh.world_size,
        cpus_per_rank=1,
        micro_batch=global_batch // mesh.data_ranks // grad_accum,
        grad_accum=grad_accum,
        global_batch=global_batch,
        steps=8,
        seed=3,
        repeat=1,
    )


def rank_info(rank: int, world_size: int) -> RankInfo:
    return RankInfo(
        rank=rank,
        local_rank=rank,
        node_rank=0,
        nodes=1,
        world_size=world_size,
        hostnames=("here",),
        attempt="1.0",
        job_id="1",
        cpus_asked=1,
        scheduler="local",
        node_name="here",
    )


@cache
def pooled_context(rank: int, mesh: Mesh) -> JobContext:
    plain = identity("ddp", {}, "mlp", {}, mesh, mesh.data_ranks, 1)
    return make_context(rank_info(rank, mesh.world_size), plain, torch.device("cpu"))


def build(
    rank: int,
    *,
    world_size: int,
    strategy: str,
    strategy_options: dict[str, Any],
    workload: str,
    workload_options: dict[str, Any],
    global_batch: int,
    grad_accum: int,
    weigh_each: bool = False,
    steps: int = 8,
    reshard: bool = False,
    backend: str = "aot_eager",
) -> Any:
    """Build this rank's trainer.

    `backend` compiles (this one traces as the real one does, and generates no code), `weigh_each` has the weights added
    up over the ranks, `reshard` breaks the rule that keeps some schedules from
    giving weights back too early.
    """
    spread = registry.get_strategy(strategy)
    work = registry.get_workload(workload)
    options = msgspec.convert(strategy_options, spread.Options)
    mesh = spread.layout(World(1, world_size), options)
    who = identity(strategy, strategy_options, workload, workload_options, mesh, global_batch, grad_accum)
    who = msgspec.structs.replace(who, steps=steps)
    context = msgspec.structs.replace(pooled_context(rank, mesh), identity=who)
    loaded = work.load(msgspec.convert(workload_options, work.Options), who.seed)
    if weigh_each:  # as a workload does whose samples differ: the weight must be added up over the ranks
        loaded = msgspec.structs.replace(loaded, sample_weight=None)
    fast = mock.patch.object(compiling, "BACKEND", backend)
    with fast, mock.patch.object(composition, "reshards", return_value=True) if reshard else nullcontext():
        return spread.build(context, loaded, options)


def train(rank: int, *, steps: int, plant: bool = False, **arguments: Any) -> list[tuple[float, float]]:
    """Train for some steps; return this rank's (loss_sum, weight) of each. `plant` makes one gradient wrong."""
    trainer = build(rank, steps=steps, **arguments)
    if plant and rank == arguments["world_size"] - 1:
        plant_wrong_gradient(trainer._update.optimizer)
    results = [trainer.step(trainer.batch(step)) for step in range(1, steps + 1)]
    trainer.close()
    return [(0.0 if r.loss_sum is None else float(r.loss_sum), r.weight) for r in results]


def forward_calls(rank: int, **arguments: Any) -> int:
    """Return how often a linear layer computes its outputs in one step."""
    trainer = build(rank, **arguments)
    trainer.step(trainer.batch(1))  # a pipeline finds out about shapes in its first step
    calls = []
    layers = [module for module in trainer.model.modules() if isinstance(module, torch.nn.Linear)]
    layers[0].register_forward_hook(lambda *_: calls.append(1))
    trainer.step(trainer.batch(2))
    return len(calls)


def dtypes(rank: int, **arguments: Any) -> dict[str, list[str]]:
    """Return the types of this rank's weights, gradients and optimizer state after a step."""
    trainer = build(rank, **arguments)
    trainer.step(trainer.batch(1))
    optimizer = trainer._update.optimizer
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    state = [value for each in optimizer.state.values() for value in each.values() if torch.is_tensor(value)]
    found = {"weights": weights, "gradients": [w.grad for w in weights], "state": state}
    return {name: sorted({str(t.dtype).removeprefix("torch.") for t in tensors}) for name, tensors in found.items()}


def plant_wrong_gradient(optimizer: Any) -> None:
    """Have every later step of this optimizer use a gradient of which a part is in the wrong place."""
    optimizer.register_step_pre_hook(_move_a_gradient)


def _move_a_gradient(optimizer: Any, *_: Any) -> None:
    """Move the rows of this rank's part of one gradient: the one that it changes most.

    Moved, not scaled: AdamW does not notice a gradient that is 10 % too large in every step. In the optimizer and not
    in a hook of the parameter, as sharded parameters get their gradients without the help of autograd. The one that
    changes most, as the last shard of a vocabulary (bytes that no text has) holds rows that hardly differ.
    """
    every = [local(p.grad) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    gradients = [gradient for gradient in every if gradient.dim() > 1] or every  # DeepSpeed's are flat
    most = max(gradients, key=lambda gradient: float((gradient.roll(1, 0) - gradient).norm()))
    most.copy_(most.roll(1, 0))


def clipped_gradients(rank: int, *, limit: float) -> tuple[list[float], list[float]]:
    """Clip random gradients, once as a single process does and once as torch does; return both, one after the other."""
    work = registry.get_workload("mlp")
    loaded = work.load(msgspec.convert({"max_grad_norm": limit}, work.Options), 0)
    alone = identity("single", {}, "mlp", {}, Mesh(), 16, 1)
    context = JobContext(info=rank_info(0, 1), identity=alone, device=torch.device("cpu"), groups={})
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    numbers = torch.Generator().manual_seed(1)
    gradients = [torch.randn(p.shape, generator=numbers) for p in model.parameters()]
    results = []
    clippers = [Clipper(context, loaded, model), lambda ps: torch.nn.utils.clip_grad_norm_(ps.values(), limit)]
    for clip in clippers:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        clip(dict(model.named_parameters()))
        results.append(torch.cat([p.grad.flatten() for p in model.parameters()]).tolist())
    return results[0], results[1]


def single(rank: int, **arguments: Any) -> list[tuple[float, float]]:
    """Train alone on rank 0: the oracle."""
    return train(0, world_size=1, strategy="single", strategy_options={}, **arguments) if rank == 0 else []


def exchange_windows(rank: int, *, world_size: int) -> Any:
    """Send tables whose entries say where they come from through the exchange."""
    import numpy as np

    from hpcpar.worker.measure.window import Column, GroupExchange

    exchange = GroupExchange(torch.distributed.group.WORLD, rank, world_size)
    exchanged = exchange(np.full((3, len(Column)), float(rank)), 5 if rank == 0 else 99)
    got = exchanged.table_WKC
    return exchanged.next_size, None if got is None else got[:, 0, 0].tolist()


def alone(rank: int, **arguments: Any) -> list[tuple[float, float]]:
    """Train a strategy on a world of one rank."""
    return train(0, world_size=1, **arguments) if rank == 0 else []


def refusal(rank: int, *, world_size: int, strategy: str, grad_accum: int) -> str:
    """Return the words in which a strategy refuses to be built."""
    try:
        train(
            rank,
            world_size=world_size,
            strategy=strategy,
            strategy_options={},
            workload="mlp",
            workload_options={},
            global_batch=16,
            grad_accum=grad_accum,
            steps=1,
        )
    except ValueError as error:
        return str(error)
    return ""
