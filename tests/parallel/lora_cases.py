"""Adapters on one process. Imports torch."""

from __future__ import annotations

from typing import Any

import cases
import msgspec
import torch
from torch import nn

from hpcpar import registry
from hpcpar.worker.workloads.lora import LoraOptions
from hpcpar.worker.workloads.lora_model import Adapted, Adapters


def _trainer(workload: str, options: dict[str, Any]) -> Any:
    plan = {"world_size": 1, "strategy": "single", "strategy_options": {}, "global_batch": 8, "grad_accum": 1}
    return cases.build(0, workload=workload, workload_options=options, **plan)


def weights_around_a_training(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], set[str], set[str]]:
    """Train three steps; return all weights before and after, which may be trained, and which have optimizer state."""
    trainer = _trainer("llama-lora", options)
    parameters = trainer.learned.parameters
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for step in (1, 2, 3):
        trainer.step(trainer.batch(step))
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    states = {name for name, parameter in parameters.items() if parameter in trainer.learned.optimizer.state}
    return before, dict(parameters), trained, states


def an_adapted_layer() -> tuple[list[float], list[float]]:
    """Return W x + (alpha / r) B A x as the layer computes it, and as it is written."""
    torch.manual_seed(0)
    layer = Adapted(nn.Linear(5, 3, bias=False), Adapters(rank=2, alpha=6.0, layers=()))
    x = torch.randn(5)
    w, a, b = layer.base.weight, layer.down.weight, layer.up.weight
    return layer(x).tolist(), ((w + 3.0 * b @ a) @ x).tolist()


def losses(options: dict[str, Any], alpha: float) -> list[float]:
    """Return the first three losses with adapters that count so much."""
    trainer = _trainer("llama-lora", {**options, "alpha": alpha})
    return [float(trainer.step(trainer.batch(step)).loss_sum) for step in (1, 2, 3)]


def operations(options: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the operations of a sample by convention: of the workload, and written down for its shape."""
    loaded = registry.get_workload("llama-lora").load(msgspec.convert(options, LoraOptions), 0)
    dim, layers, length, rank, hidden = (options[n] for n in ("dim", "layers", "sequence", "rank", "hidden"))
    keys = dim // options["heads"] * options["kv_heads"]
    frozen = layers * (2 * dim * dim + 2 * dim * keys + 3 * dim * hidden + 2 * dim) + 256 * dim + dim
    trained = layers * rank * (2 * (dim + dim) + 2 * (dim + keys))
    attention = 12 * layers * dim * length
    palm = 4 * frozen + 6 * trained + attention
    a_token = {"palm": palm, "with-embedding": palm + 4 * 256 * dim, "causal": palm - attention / 2}
    return dict(loaded.model_flops), {name: flops * length for name, flops in a_token.items()}
