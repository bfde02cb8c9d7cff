"""What happens between the last backward pass and the next step, the same for all trainers of the mesh."""

from __future__ import annotations

from typing import Any

from torch import nn

from hpcpar.worker.context import JobContext
from hpcpar.worker.learned import Learned
from hpcpar.worker.mesh_engine import tensor
from hpcpar.worker.mesh_engine.clip import Clipper
from hpcpar.worker.mesh_engine.replicate import groups_to_sum, sum_gradients
from hpcpar.worker.mesh_engine.weights import full_names


class Update:
    """Gradients are brought to rest, added up, clipped, and used.

    `bare` is the model as it is inside DDP. Its parameters are kept from the beginning: DDP over tensor parallelism
    hands the model other objects during a step.
    """

    def __init__(self, context: JobContext, bare: nn.Module, optimizer: Any, clip: Clipper) -> None:
        self.optimizer = optimizer
        self._named, self._clip = dict(bare.named_parameters()), clip
        self._groups = groups_to_sum(context)
        self.learned = Learned(full_names(bare), optimizer)

    def begin(self) -> None:
        """Forget the gradients of the step before."""
        self.optimizer.zero_grad(set_to_none=True)

    def finish(self) -> None:
        """Do one update."""
        parameters = self._named.values()
        tensor.settle_gradients(parameters)
        for group in self._groups:
            sum_gradients(parameters, group)
        self._clip(self._named)
        self.optimizer.step()
