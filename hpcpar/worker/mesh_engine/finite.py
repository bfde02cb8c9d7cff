"""What becomes of an update whose loss or gradient is not a finite number: the same decision on every rank."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import distributed

from hpcpar.errors import RunError
from hpcpar.mesh import AXES
from hpcpar.records import Cause
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine.shard import local
from hpcpar.worker.neural import NeuralWorkload


class Watch:
    """Looks at what an update would use. "record" looks at nothing; the others wait for the device once an update."""

    def __init__(self, context: JobContext, workload: NeuralWorkload) -> None:
        self._policy, self._device = workload.nonfinite, context.device
        self._groups = [context.groups[axis] for axis in AXES if axis in context.groups]

    def allows(self, parameters: Iterable[Any], loss: Any) -> bool:
        """Say whether the update may be done: False means to skip it.

        Args:
            parameters: those of this rank, their gradients added up over the ranks.
            loss: this rank's summed loss; None where it has none.

        Raises:
            RunError: it may not, and the policy is "stop".
        """
        if self._policy == "record":
            return True
        found = [local(parameter.grad) for parameter in parameters]
        found += [] if loss is None else [loss]
        finite = torch.stack([values.isfinite().all().to(self._device) for values in found]).all()
        wrong = (~finite).float()
        for group in self._groups:
            distributed.all_reduce(wrong, op=distributed.ReduceOp.MAX, group=group)
        if not wrong.item():
            return True
        if self._policy == "stop":
            raise RunError(Cause.DIVERGED, "the loss or a gradient is not finite, and nonfinite is 'stop'")
        return False
