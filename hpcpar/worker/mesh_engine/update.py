"""What happens between the last backward pass and the next step, the same for all trainers of the mesh."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from hpcpar.worker.context import JobContext
from hpcpar.worker.learned import Learned
from hpcpar.worker.mesh_engine import replicate, tensor
from hpcpar.worker.mesh_engine.balance import Balance
from hpcpar.worker.mesh_engine.clip import Clipper
from hpcpar.worker.mesh_engine.finite import Watch
from hpcpar.worker.mesh_engine.weights import full_buffers, full_names


class Update:
    """Gradients are brought to rest, added up, clipped, and used.

    `bare` is the model as it is inside DDP. Its parameters are kept from the beginning: DDP over tensor parallelism
    hands the model other objects during a step.
    """

    def __init__(
        self,
        context: JobContext,
        bare: nn.Module,
        optimizer: Any,
        *,
        clip: Clipper,
        watch: Watch,
        balance: Balance,
        splits: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.optimizer, self.balance = optimizer, balance
        self._named = {n: p for n, p in bare.named_parameters() if p.requires_grad}
        self._clip, self._watch = clip, watch
        self._sums = replicate.sums(context, self._named.values())
        self.learned = Learned(full_names(bare), optimizer, full_buffers(bare), splits)

    def begin(self, scale: float) -> None:
        """Forget the gradients of the step before; summed losses will be multiplied by `scale`."""
        self.optimizer.zero_grad(set_to_none=True)
        self.balance.begin(scale)

    def finish(self, loss: Any = None) -> bool:
        """Do one update; return whether it was applied. `loss` is this rank's summed loss, where it has one."""
        parameters = self._named.values()
        tensor.settle_gradients(parameters)
        for one in self._sums:
            replicate.sum_gradients(one)
        applied = self._watch.allows(parameters, loss)
        if applied:
            self._clip(self._named)
            self.optimizer.step()
        self.balance.finish()
        return applied
