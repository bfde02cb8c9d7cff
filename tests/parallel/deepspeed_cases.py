"""What the ranks of the pool do for DeepSpeed's strategies. Called on all ranks at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import msgspec
import torch
from cases import build

from hpcpar import registry
from hpcpar.worker.neural import Unit


def train(rank: int, *, steps: int, plant: bool = False, zero_stage: int = 1, **arguments: Any) -> Any:
    """Train for some steps; return this rank's (loss_sum, weight) of each. `plant` makes one gradient wrong.

    Args:
        zero_stage: of the pipeline; another one than 1 breaks the rule that keeps it from being wrong.
    """
    trainer = _build(rank, zero_stage, steps=steps, **arguments)
    if plant and rank == arguments["world_size"] - 1:
        _plant_wrong_gradient(trainer.model)
    results = [trainer.step(trainer.batch(step)) for step in range(1, steps + 1)]
    trainer.close()
    assert all(result.applied for result in results)
    return [(0.0 if r.loss_sum is None else float(r.loss_sum), r.weight) for r in results]


def holdings(rank: int, **arguments: Any) -> dict[str, int]:
    """Do one step; return how many numbers this rank holds of the weights and of the optimizer's first moments."""
    trainer = _build(rank, **arguments)
    trainer.step(trainer.batch(1))
    moments = [state["momentum_buffer"] for state in trainer._engine.optimizer.optimizer.state.values()]
    parameters = list(trainer.model.parameters())
    held = [getattr(p, "ds_tensor", p) for p in parameters]
    trainer.close()
    return {"weights": sum(t.numel() for t in held), "moments": sum(t.numel() for t in moments)}


def unmatched_plan(rank: int) -> str:
    """Have AutoTP look for names that do not exist; return the words in which that is refused."""
    from hpcpar.worker.deepspeed_engine import autotp

    right = autotp.specifications

    def wrong(planned: dict[str, Any]) -> list[dict[str, Any]]:
        return right({f"module.{name}": style for name, style in planned.items()})

    with mock.patch.object(autotp, "specifications", wrong):
        return refusal(rank, strategy="deepspeed-tp", grad_accum=2, plan=True)


def refusal(rank: int, *, strategy: str, grad_accum: int, plan: bool = False) -> str:
    """Return the words in which a strategy refuses to be built, for a workload with or without a plan."""
    work = registry.get_workload("mlp")
    declare = type(work).declare

    def bare(self: Any, options: Any) -> Any:
        return msgspec.structs.replace(declare(self, options), tensor=None)

    arguments = {"strategy": strategy, "grad_accum": grad_accum, "strategy_options": {}, "world_size": 2}
    with mock.patch.object(type(work), "declare", declare if plan else bare):
        try:
            _build(rank, workload="mlp", workload_options={}, global_batch=16, **arguments)
        except ValueError as error:
            return str(error)
    return ""


def _build(rank: int, zero_stage: int = 1, **arguments: Any) -> Any:
    from hpcpar.worker.deepspeed_engine import pipeline

    forget_the_last_model()
    with mock.patch.object(pipeline, "ZERO_STAGE", zero_stage):
        return build(rank, **arguments)


def _plant_wrong_gradient(model: torch.nn.Module) -> None:
    """Move the rows of the gradient of the last matrix: before DeepSpeed sees it, as it keeps gradients to itself."""
    last = [p for p in model.parameters() if _dimensions(p) > 1][-1]
    last.register_hook(lambda gradient: gradient.roll(1, 0))


def _dimensions(parameter: Any) -> int:
    return len(getattr(parameter, "ds_shape", parameter.shape))


def forget_the_last_model() -> None:
    """Have DeepSpeed begin anew: it expects to train one model a process."""
    from deepspeed.utils import groups

    groups._release_process_group_references()


def full_weights(trainer: Any, units: Sequence[Unit]) -> dict[str, Any]:
    """Return the whole of every parameter of which this rank has a part, by UNIT.PARAMETER; all ranks call it alike."""
    with torch.device("meta"):
        whole = {f"{unit.name}.{n}": p.shape for unit in units for n, p in unit.build().named_parameters()}
    names = [unit.name for unit in units]
    found = {}
    for name, parameter in trainer.model.named_parameters():
        words = name.split(".")
        plain = ".".join(words[next(i for i, word in enumerate(words) if word in names) :])
        found[plain] = _whole(parameter, whole[plain]).numpy()
    return found


def _whole(parameter: Any, shape: torch.Size) -> torch.Tensor:
    """Return a copy of a parameter that ZeRO 3 has sharded, or AutoTP has split along one dimension."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        mine = parameter.detach().clone()
    split = [axis for axis, (here, all_of_it) in enumerate(zip(mine.shape, shape, strict=True)) if here != all_of_it]
    if not split:
        return mine
    group = deepspeed.utils.groups.get_tensor_model_parallel_group()
    parts = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(parts, mine.contiguous(), group=group)
    return torch.cat(parts, dim=split[0])
