"""What the ranks of the pool do for pipelines of known stage times, and to count the activations that a stage keeps."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from typing import Any

import torch
from bubbles import make_schedule
from torch import distributed, nn

from hpcpar.schedules import SCHEDULES, ScheduleName, stages_of

WIDTH = 4


class _Through(torch.autograd.Function):
    """The identity, which takes its time on the way forward and on the way back."""

    @staticmethod
    def forward(ctx: Any, value: Any, forward_s: float, backward_s: float) -> Any:
        ctx.backward_s = backward_s
        time.sleep(forward_s)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        time.sleep(ctx.backward_s)
        return gradient.clone(), None, None


class Timed(nn.Module):
    """A stage whose forward pass, inputs' gradients and weights' gradients each take `unit_s`."""

    def __init__(self, unit_s: float) -> None:
        super().__init__()
        self.weight, self._unit_s = nn.Parameter(torch.ones(WIDTH)), unit_s

    def forward(self, inputs: Any) -> Any:
        """Return the inputs with a weight added."""
        return _Through.apply(inputs, self._unit_s, self._unit_s) + _Through.apply(self.weight, 0.0, self._unit_s)


def step_times(rank: int, *, name: ScheduleName, m: int, v: int, unit_s: float, steps: int) -> list[float]:
    """Return how long each step took on this rank, from a barrier on; a first one is not counted."""
    p = distributed.get_world_size()
    mine = stages_of(SCHEDULES[name], rank, p, v)
    schedule = make_schedule(name, {i: Timed(unit_s) for i in mine}, p * v, m, lambda out, _: out.sum())
    times = []
    for _ in range(steps + 1):
        distributed.barrier()
        begin = time.perf_counter()
        _run(schedule, mine, p * v, m)
        times.append(time.perf_counter() - begin)
    return times[1:]


def _run(schedule: Any, mine: list[int], num_stages: int, m: int) -> None:
    values = torch.zeros(m, WIDTH)
    target: dict[str, Any] = {"target": values, "losses": []} if num_stages - 1 in mine else {}
    # The first stage's inputs need gradients too: its backward pass takes as long as every other stage's.
    inputs = (values.requires_grad_(),) if 0 in mine else ()
    schedule.step(*inputs, **target, return_outputs=False)


class Alive:
    """Counts the passes of which something is still kept for the backward pass."""

    def __init__(self) -> None:
        self.most = 0
        self._kept: Counter[int] = Counter()
        self._passes = 0

    def watch(self, module: nn.Module) -> None:
        """Have every pass through a module counted, in place."""
        inner = module.forward

        def forward(inputs: Any) -> Any:
            self._passes += 1
            number = self._passes

            def pack(tensor: Any) -> Any:
                held = _Held(tensor)
                self._kept[number] += 1
                weakref.finalize(held, self._kept.subtract, [number])
                return held

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
                outputs = inner(inputs)
            self.most = max(self.most, sum(count > 0 for count in self._kept.values()))
            return outputs

        module.forward = forward


class _Held:
    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


class Squared(nn.Module):
    """A stage that must keep its inputs for its backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, inputs: Any) -> Any:
        """Return the inputs times a weight."""
        return inputs * self.weight


def most_kept(rank: int, *, name: ScheduleName, m: int, v: int) -> int:
    """Return the most passes (stages x micro-batches) of which this rank kept something at a time, in one step."""
    p = distributed.get_world_size()
    mine = stages_of(SCHEDULES[name], rank, p, v)
    modules, alive = {i: Squared() for i in mine}, Alive()
    schedule = make_schedule(name, modules, p * v, m, lambda out, _: out.sum())
    _run(schedule, mine, p * v, m)
    for module in modules.values():
        alive.watch(module)
    _run(schedule, mine, p * v, m)
    return alive.most
