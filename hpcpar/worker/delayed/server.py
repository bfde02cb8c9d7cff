"""The server of the parameters: it collects gradients, updates, and lets no rank run too far ahead.

Update t (1, 2, ...) is one step of the workload's optimizer on

    g_t = sum_i a_i g_i(x_{v_i}) / sum_i a_i

where g_i is the gradient of the mean loss of rank i's share of the global batch t, a_i the weight of that share, and
x_v the parameters after v updates. A rank gets the newest parameters there are, and must wait until v_i >= t - 1 - s:
the staleness t - 1 - v_i of a gradient never exceeds the bound s. An update waits for its last gradient; no rank waits
for an update that is less than s + 1 steps behind it. With s = 0 every gradient is taken at x_{t-1}, which is ddp.

Source: bounded delay, Li et al. 2014, Scaling Distributed Machine Learning with the Parameter Server (OSDI), section
3.4; stale synchronous parallel, Ho et al. 2013 (NeurIPS). No torch.distributed here: threads call, one a rank.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from hpcpar.worker.delayed.average import flatten, unflatten


class Pulled(NamedTuple):
    """Parameters as a rank gets them."""

    version: int
    """How many updates are in them."""
    flat: torch.Tensor


class Gradient(NamedTuple):
    """What a rank brings for a step: the gradient of its mean loss, and the weight of its share."""

    version: int
    """Of the parameters that it was computed with."""
    flat: torch.Tensor
    weight: float


class Arrival(NamedTuple):
    """Who brought a gradient, and by how many updates it was late."""

    rank: int
    staleness: int


class Server:
    """Parameters and optimizer in host memory; every method may be called from any thread.

    Args:
        parameters: the initial ones; they are copied.
        optimizer: parameters -> torch.optim.Optimizer.
        num_ranks: how many gradients make an update.
        bound: the largest staleness.
        patience_s: how long a caller waits for other ranks before it gives up.
        max_grad_norm: the longest that the mean of an update's gradients may be; 0: as long as it is.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: Callable[[Sequence[Any]], Any],
        num_ranks: int,
        bound: int,
        *,
        patience_s: float,
        max_grad_norm: float = 0.0,
    ) -> None:
        self._parameters = [nn.Parameter(parameter.detach().cpu().clone()) for parameter in parameters]
        self._optimizer = optimizer(self._parameters)
        self._num_ranks, self._bound, self._patience_s = num_ranks, bound, patience_s
        self._max_grad_norm = max_grad_norm
        self._changed = threading.Condition()
        self._inbox: dict[int, dict[int, Gradient]] = {}
        self._arrivals: dict[int, list[Arrival]] = {}
        self._error: BaseException | None = None
        self.version = 0
        self.staleness_counts: dict[int, int] = {}
        """How many gradients had which staleness."""

    def pull(self, step: int) -> Pulled:
        """Return the newest parameters, as soon as they are new enough for `step`.

        Raises:
            RuntimeError: another rank was lost, or did not bring its gradient in time.
        """
        with self._changed:
            self._wait_for(step - 1 - self._bound)
            return Pulled(self.version, flatten(self._parameters))

    def push(self, rank: int, step: int, gradient: Gradient) -> None:
        """Take the gradient of `rank` for `step`; update when it is the last one of its step.

        A rank brings its steps in order, so that step t is complete before step t + 1 can be.
        """
        with self._changed:
            staleness = step - 1 - gradient.version
            assert 0 <= staleness <= self._bound, f"step {step} of rank {rank} is {staleness} updates late"
            self._inbox.setdefault(step, {})[rank] = gradient
            self._arrivals.setdefault(step, []).append(Arrival(rank, staleness))
            self.staleness_counts[staleness] = self.staleness_counts.get(staleness, 0) + 1
            if len(self._inbox[step]) == self._num_ranks:
                self._update(self._inbox.pop(step))
                self._changed.notify_all()

    def _update(self, gradients: dict[int, Gradient]) -> None:
        # Added up by rank, not by arrival: what was computed follows from the staleness alone, to the last bit.
        ordered = [gradients[rank] for rank in sorted(gradients)]
        total = sum(gradient.weight for gradient in ordered) or 1.0
        mean = sum((g.flat * (g.weight / total) for g in ordered[1:]), ordered[0].flat * (ordered[0].weight / total))
        for parameter, values in zip(self._parameters, unflatten(mean, self._parameters), strict=True):
            parameter.grad = values.to(parameter.dtype)
        if self._max_grad_norm:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._optimizer.step()
        self.version += 1

    def arrivals(self, step: int) -> list[Arrival]:
        """Return, once update `step` is applied, its gradients in the order of their arrival; then forget them.

        Raises:
            RuntimeError: another rank was lost, or did not bring its gradient in time.
        """
        with self._changed:
            self._wait_for(step)
            return self._arrivals.pop(step)

    def after(self, step: int) -> torch.Tensor:
        """Return the parameters once update `step` is applied; no later one may have been asked for.

        Raises:
            RuntimeError: another rank was lost, or did not bring its gradient in time.
        """
        with self._changed:
            self._wait_for(step)
            return flatten(self._parameters)

    def fail(self, error: BaseException) -> None:
        """Let all who wait, and all who will, know that a rank was lost."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _wait_for(self, version: int) -> None:
        self._changed.wait_for(lambda: self.version >= version or self._error is not None, self._patience_s)
        if self._error is not None:
            raise RuntimeError(f"the server of the parameters lost a rank: {self._error}") from self._error
        if self.version < version:
            there = self._inbox.get(self.version + 1, {})
            missing = ", ".join(str(rank) for rank in range(self._num_ranks) if rank not in there)
            what = (
                f"timed out after {self._patience_s:g} s: no gradient for step {self.version + 1} from rank {missing}"
            )
            raise RuntimeError(what)
