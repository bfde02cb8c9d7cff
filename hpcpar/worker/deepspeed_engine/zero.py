"""ZeRO: optimizer state (1), gradients (2) and weights (3) sharded over the ranks. Imports torch."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.deepspeed_engine import runtime
from hpcpar.worker.deepspeed_engine.accumulate import EngineTrainer
from hpcpar.worker.mesh_engine import weights
from hpcpar.worker.neural import NeuralWorkload


def build(context: JobContext, workload: NeuralWorkload, options: EngineOptions, zero: dict[str, Any]) -> Trainer:
    """Make the trainer of this rank; `zero` is DeepSpeed's own `zero_optimization`."""
    deepspeed = runtime.load(context, workload)
    config = runtime.settings(context, workload, zero)
    model = nn.Sequential(OrderedDict(_units(deepspeed, context, workload, options, config)))
    return EngineTrainer(context, workload, options, runtime.initialize(deepspeed, model, workload, config))


def _units(
    deepspeed: Any, context: JobContext, workload: NeuralWorkload, options: EngineOptions, config: dict[str, Any]
) -> Any:
    """Yield names and modules; under ZeRO 3 no rank ever holds more than one whole unit."""
    whole = runtime.alone(context)
    for unit in workload.units:
        model = weights.materialise((unit,), workload, whole, options)
        module = model.get_submodule(unit.name)
        if config["zero_optimization"]["stage"] == 3:
            deepspeed.zero.Init(module=module, config_dict_or_path=config)
        yield unit.name, module
