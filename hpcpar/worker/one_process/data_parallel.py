"""torch.nn.DataParallel: replicas made anew in every step, by the threads of one process. Imports torch."""

from __future__ import annotations

from typing import Any

from torch import nn

from hpcpar.registry import Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import weights
from hpcpar.worker.mesh_engine.replica import ReplicaTrainer
from hpcpar.worker.neural import NeuralWorkload
from hpcpar.worker.one_process.devices import visible


class DataParallelTrainer(ReplicaTrainer):
    """DataParallel scatters every micro-batch over the devices and gathers the outputs on the first one.

    The loss is computed there, over all of the micro-batch: gradients are sums, and nothing is to be averaged.
    """

    def __init__(self, context: JobContext, workload: NeuralWorkload, model: nn.Module, optimizer: Any) -> None:
        super().__init__(context, workload, model, optimizer)
        devices = visible(context.device)
        if len(devices) == 1:
            self.notes = (f"dp: this process sees one device ({devices[0]}): it is one replica, nothing was spread",)
        else:
            self.notes = (f"dp: {len(devices)} replicas in one process, on {', '.join(map(str, devices))}",)


def build(context: JobContext, workload: NeuralWorkload) -> Trainer:
    """Wrap the whole model; without several GPUs it is called as it is."""
    model = weights.materialise(workload.units, workload, context.device)
    optimizer = workload.optimizer(list(model.parameters()))
    devices = visible(context.device)
    wrapped = nn.DataParallel(model, device_ids=devices) if len(devices) > 1 else model
    return DataParallelTrainer(context, workload, wrapped, optimizer)
