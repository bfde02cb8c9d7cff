"""AutoTP in training: DeepSpeed splits linear layers over groups of ranks. Imports torch."""

from __future__ import annotations

import re
from typing import Any

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.deepspeed_engine import runtime
from hpcpar.worker.deepspeed_engine.accumulate import EngineTrainer
from hpcpar.worker.mesh_engine import weights
from hpcpar.worker.neural import NeuralWorkload, TensorStyle, Unit

STYLES: tuple[TensorStyle, ...] = ("column", "row")
"""What of a workload's plan DeepSpeed is told; the rest (embeddings, norms, logits) stays whole on every rank."""


def build(context: JobContext, workload: NeuralWorkload, options: EngineOptions) -> Trainer:
    """Make the trainer of this rank. The optimizer's state is sharded over the replicas (ZeRO 1).

    Raises:
        ValueError: the composition rules refuse it, or DeepSpeed did not split what the plan says.
    """
    deepspeed = runtime.load(context, workload)
    model = weights.materialise(workload.units, workload, runtime.alone(context), options)
    planned = {name: style for unit in workload.units for name, style in _weights(unit)}
    config = runtime.settings(context, workload, {"stage": 1})
    if context.mesh.tp > 1:
        config["tensor_parallel"] = {
            "autotp_size": context.mesh.tp,
            "partition_config": {"use_default_specs": False, "layer_specs": specifications(planned)},
        }
    sizes = {name: model.get_parameter(name).numel() for name in planned}
    engine = runtime.initialize(deepspeed, model, workload, config)
    whole = [name for name, size in sizes.items() if model.get_parameter(name).numel() * context.mesh.tp != size]
    if whole:
        raise ValueError(f"DeepSpeed did not split {', '.join(whole)} over tp={context.mesh.tp}")
    return EngineTrainer(context, workload, options, engine)


def _weights(unit: Unit) -> list[tuple[str, TensorStyle]]:
    return [
        (".".join(filter(None, (unit.name, path, "weight"))), style)
        for path, style in unit.tensor.items()
        if style in STYLES
    ]


def specifications(planned: dict[str, TensorStyle]) -> list[dict[str, Any]]:
    """Return DeepSpeed's specifications of layers, from names of weights and what they are."""
    return [
        {"partition_type": style, "patterns": [f"{re.escape(name)}$" for name, its in planned.items() if its == style]}
        for style in STYLES
    ]
