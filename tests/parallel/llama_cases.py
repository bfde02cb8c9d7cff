"""What a rank of the pool does for the presets of llama."""

from __future__ import annotations

import msgspec
import torch

from hpcpar import registry
from hpcpar.worker.workloads import llama_model


def num_parameters(rank: int, *, name: str) -> dict[str, int] | None:
    """Count the parameters of a preset by unit, without their memory. Its data is that of the smallest one."""
    if rank:
        return None
    workload = registry.get_workload(name)
    options = workload.Options()
    shape = llama_model.shape_of(options)
    with torch.device("meta"):
        units = llama_model.units(shape, options.vocabulary, options.layers)
        return {unit.name: sum(p.numel() for p in unit.build().parameters()) for unit in units}


def learns(rank: int, *, name: str, options: dict[str, object], steps: int) -> list[float] | None:
    """Train alone; return the loss of every step."""
    from cases import build

    if rank:
        return None
    assert msgspec.convert(options, registry.get_workload(name).Options)
    work = {"workload": name, "workload_options": options, "global_batch": 4, "grad_accum": 1}
    trainer = build(0, world_size=1, strategy="single", strategy_options={}, steps=steps, **work)
    results = [trainer.step(trainer.batch(step)) for step in range(1, steps + 1)]
    return [float(result.loss_sum) / result.weight for result in results]
