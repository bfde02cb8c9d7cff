"""Counts what tensors that are not really there would take: memory that is alive, operations, bytes, messages.

Tensors are torch's fakes: they have shapes and no memory. Every operator passes through the fakes' own dispatch, those
inside a DTensor included, and there it is counted.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
_COLLECTIVES = {
    "all_reduce": ("all-reduce", "input"),
    "allreduce_": ("all-reduce", "input"),
    "all_gather_into_tensor": ("all-gather", "result"),
    "_allgather_base_": ("all-gather", "input"),
    "reduce_scatter_tensor": ("reduce-scatter", "input"),
    "_reduce_scatter_base_": ("reduce-scatter", "second"),
    "alltoall_base_": ("all-to-all", "second"),
    "all_to_all_single": ("all-to-all", "input"),
    "send": ("send", "input"),
}
"""Operator of torch -> the collective, and which of its tensors is the whole."""


def _attention_flops(query: Any, key: Any, value: Any, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    """Return 2 matrix products of [S, E] x [E, T], half of it where later tokens are not looked at."""
    *batch, length, width = query.shape
    heads = 1
    for size in batch:
        heads *= size
    return int(2 * 2 * heads * length * key.shape[-2] * width) // (2 if causal else 1)


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *more: Any, **_: Any) -> int:
    """Return 5 products: the scores again, and two for each of queries and keys, and one for values."""
    _, _, dropout, causal = more  # after its output and the logarithms of its sums
    return _attention_flops(query, key, value, dropout, causal) * 5 // 2


_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}
"""torch's own table (flop_registry, 2.13) has no kernels of CPUs, and counts what causal attention leaves out."""


class Tally(FakeTensorMode):
    """Fakes that are counted. `begin` starts anew; what was alive before then does not count as alive."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._sizes: dict[int, int] = {}
        self._alive: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.begin()

    def begin(self) -> None:
        """Forget what was counted."""
        self.now = 0
        self.history: list[int] = []
        """Bytes that were alive after each operator."""
        self.flops = self.attention = self.traffic = self.operators = 0
        self.calls: Counter[str] = Counter()
        self.payload: Counter[str] = Counter()
        self._mark = getattr(self, "_mark", 0) + 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the fakes compute the operator, then count it.

        Who asks for a number (the weight of a loss) gets a one.
        """
        if func is _aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if result is not NotImplemented:
            self._count(func, args, kwargs or {}, result)
        return result

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        results = list(_tensors(result))
        for tensor in results:
            self._meet(tensor)
        self.history.append(self.now)
        if func.namespace in {"c10d", "_c10d_functional"}:
            self._message(func._opname, args, result)
        elif func.namespace == "aten" and not func.is_view:
            self.operators += 1
            self.traffic += sum(t.nbytes for t in (*_tensors(args), *results))
            count: Any = _ATTENTION.get(func._overloadpacket)
            if count is not None:
                self.attention += count(*args, **kwargs)
            elif func._overloadpacket in flop_registry:
                self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)

    def _message(self, name: str, args: Any, result: Any) -> None:
        if name in _COLLECTIVES:
            collective, which = _COLLECTIVES[name]
            whole = result if which == "result" else args[1 if which == "second" else 0]
            self.calls[collective] += 1
            self.payload[collective] += sum(tensor.nbytes for tensor in _tensors(whole))

    def _meet(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        if storage in self._alive:
            return
        size, mark = storage.nbytes(), self._mark
        self._alive[storage] = mark
        self.now += size
        weakref.finalize(storage, self._part, size, mark)

    def _part(self, size: int, mark: int) -> None:
        if mark == self._mark:
            self.now -= size


def _tensors(value: Any) -> Any:
    """Yield the fake tensors in what an operator takes or gives."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
