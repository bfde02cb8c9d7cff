"""What the ranks of the pool do to be measured: bytes that a step moves, bytes that a rank holds."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import torch
from cases import local
from matrix import Job
from matrix_cases import build, load, named_parameters
from torch.utils._python_dispatch import TorchDispatchMode

WARM = 3
PAYLOAD = {
    "allreduce_": ("all-reduce", "input"),
    "all_reduce": ("all-reduce", "input"),
    "_allgather_base_": ("all-gather", "output"),
    "all_gather_into_tensor": ("all-gather", "result"),
    "_reduce_scatter_base_": ("reduce-scatter", "second"),
    "reduce_scatter_tensor": ("reduce-scatter", "input"),
    "alltoall_base_": ("all-to-all", "second"),
    "all_to_all_single": ("all-to-all", "input"),
    "send": ("send", "input"),
}
"""Operator of torch -> the collective, and which of its tensors is the whole: what it adds up, gathers or scatters."""
FREE = {"wait_tensor", "_wrap_tensor_autograd", "recv_", "barrier"}
"""What receives or waits: its bytes are counted where they are sent."""


class Ledger(NamedTuple):
    """What one rank moved in a step, and what it holds at the end of it."""

    moved: dict[str, int]
    """Bytes by collective."""
    calls: dict[str, int]
    parameters: int
    gradients: int
    optimizer: int
    """Bytes of the optimizer's moments; its step counters are left out."""


class Count(TorchDispatchMode):
    """Adds up the payload of every communication operator, seen as torch's CommDebugMode sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "redistribute") for kind in types):  # a DTensor: let it call what it is made of
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        if func.namespace in ("c10d", "_c10d_functional"):
            self._enter(func._opname, args, result)
        return result

    def _enter(self, name: str, args: Any, result: Any) -> None:
        if name in FREE:
            return
        collective, which = PAYLOAD[name]  # an operator that is not there must be looked at by a person
        whole = result if which == "result" else args[1 if which == "second" else 0]
        self.calls[collective] += 1
        self.moved[collective] += sum(t.nbytes for t in (whole if isinstance(whole, list | tuple) else [whole]))


def ledger(rank: int, *, job: Job) -> Ledger:
    """Train some steps, count the last: pipelines find out about shapes in the first, DDP orders its buckets later."""
    trainer = build(rank, job.identity, load(job))
    for step in range(1, WARM + 1):
        trainer.step(trainer.batch(step))
    batch = trainer.batch(WARM + 1)
    with Count() as count:
        trainer.step(batch)
    found = Ledger(dict(count.moved), dict(count.calls), *held(trainer))
    trainer.close()
    return found


def held(trainer: Any) -> tuple[int, int, int]:
    """Return the bytes of this rank's parameters, gradients and moments."""
    parameters = list(named_parameters(trainer).values())
    update = getattr(trainer, "_update", None)
    optimizer = update.optimizer if update is not None else trainer._optimizer
    moments = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and name != "step"
    ]
    gradients: list[Any] = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return tuple(sum(local(tensor).nbytes for tensor in kind) for kind in (parameters, gradients, moments))
