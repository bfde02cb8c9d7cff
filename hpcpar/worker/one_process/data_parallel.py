"""torch.nn.DataParallel: replicas made anew in every step, by the threads of one process. Imports torch."""

from __future__ import annotations

from torch import nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import weights
from hpcpar.worker.mesh_engine.balance import Balance
from hpcpar.worker.mesh_engine.clip import Clipper
from hpcpar.worker.mesh_engine.finite import Watch
from hpcpar.worker.mesh_engine.replica import ReplicaTrainer
from hpcpar.worker.mesh_engine.update import Update
from hpcpar.worker.neural import NeuralWorkload
from hpcpar.worker.one_process.devices import visible


class DataParallelTrainer(ReplicaTrainer):
    """DataParallel scatters every micro-batch over the devices and gathers the outputs on the first one.

    The loss is computed there, over all of the micro-batch: gradients are sums, and nothing is to be averaged.
    """

    def __init__(self, context: JobContext, workload: NeuralWorkload, bare: nn.Module) -> None:
        clipper, balance = Clipper(context, workload, bare), Balance(context, workload, [bare])
        watch = Watch(context, workload)
        update = Update(
            context, bare, workload.optimizer(weights.trained(bare)), clip=clipper, watch=watch, balance=balance
        )
        devices = visible(context.device)
        model = nn.DataParallel(bare, device_ids=devices) if len(devices) > 1 else bare
        super().__init__(context, workload, model, update, EngineOptions())
        if len(devices) == 1:
            self._note = f"dp: this process sees one device ({devices[0]}): it is one replica, nothing was spread"
        else:
            self._note = f"dp: {len(devices)} replicas in one process, on {', '.join(map(str, devices))}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Say over how many devices the replicas were spread."""
        return (self._note,)


def build(context: JobContext, workload: NeuralWorkload) -> Trainer:
    """Wrap the whole model; without several GPUs it is called as it is."""
    bare = weights.materialise(workload.units, workload, context, EngineOptions())
    return DataParallelTrainer(context, workload, bare)
