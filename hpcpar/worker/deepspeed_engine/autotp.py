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

def build(context: JobContext, workload: NeuralWorkload, stage: int = 1) -> Trainer:
    """Make the trainer of this rank."""
    deepspeed = runtime.load(context)
    config = runtime.settings(context, workload.max_grad_norm, {"stage": stage})
    if context.mesh.tp > 1:
        config["tensor_parallel"] = {
            "autotp_size": context.mesh.tp,
            "partition_config": {"use_default_specs": False, "layer_specs": plan(workload.units)},
        }
    model = weights.materialise(workload.units, workload, runtime.alone(context), EngineOptions())
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), optimizer=workload.optimizer, config=config
    )
    return EngineTrainer(context, workload, engine)


def plan(units: tuple[Unit, ...]) -> list[dict[str, Any]]:
    """Translate the workload's plan into DeepSpeed's specifications of layers."""
    specs: dict[TensorStyle, list[str]] = {"column": [], "row": []}
    for unit in units:
        for path, style in unit.tensor.items():
            if style in specs:
                name = ".".join(filter(None, (unit.name, path, "weight")))
                specs[style].append(f"^{re.escape(name)}$")
    return [{"partition_type": style, "patterns": patterns} for style, patterns in specs.items() if patterns]
