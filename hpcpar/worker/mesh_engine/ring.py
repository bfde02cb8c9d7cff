"""Context parallelism over cp: every rank has a slice of the sequence, keys and values go round in a ring.

Ring attention (Liu et al. 2023, arXiv:2310.01889) on torch's own attention kernels: each hop attends to one slice, and
partial results are merged by their log-sum-exp, as flash attention does between its tiles (Dao 2023, arXiv:2307.08691,
section 3.1). Slices are consecutive, so a causal ring leaves the first ranks waiting: the last one does n hops of work.

Legend: B samples, H query heads, K key and value heads, S tokens of this rank, E width of a head.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import distributed, nn

from hpcpar.worker.context import JobContext
from hpcpar.worker.neural import Unit

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def apply(module: nn.Module, unit: Unit, context: JobContext) -> None:
    """Make a unit work on this rank's slice of the sequence, in place.

    Raises:
        ValueError: the device is not a CPU.
    """
    if context.mesh.cp == 1:
        return
    if context.device.type != "cpu":
        raise ValueError("cp runs on CPUs only so far: its attention is built on torch's CPU kernel")
    for path, style in unit.sequence.items():
        if style == "attention":
            module.set_submodule(path, RingAttention(context.groups["cp"]))
        elif style == "positions":
            module.get_submodule(path).part = context.place["cp"]
        else:
            module.get_submodule(path).add_up = partial(_add_up, group=context.groups["cp"])


def _add_up(counts: torch.Tensor, group: Any) -> torch.Tensor:
    summed = counts.clone()
    distributed.all_reduce(summed, group=group)
    return summed


class RingAttention(nn.Module):
    """Causal attention of a slice of the sequence to all slices before it and to itself."""

    def __init__(self, group: Any) -> None:
        super().__init__()
        self._group = group

    def forward(self, q_BHSE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor) -> torch.Tensor:
        """Return the mixed values [B, H, S, E]."""
        return _ring(q_BHSE, k_BKSE, v_BKSE, self._group)


@torch.compiler.disable  # torch.compile leaves the messages of the ring alone
def _ring(q_BHSE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor, group: Any) -> torch.Tensor:
    mixed: torch.Tensor = _Ring.apply(q_BHSE, k_BKSE, v_BKSE, group)
    return mixed


class _Ring(torch.autograd.Function):
    """At hop i, rank r holds the keys and values of slice r - i; slices after its own are not attended to."""

    @staticmethod
    def forward(ctx: Any, q_BHSE: Any, k_BKSE: Any, v_BKSE: Any, group: Any) -> Any:
        rank, size = distributed.get_rank(group), distributed.get_world_size(group)
        repeats = q_BHSE.shape[1] // k_BKSE.shape[1]
        # The kernels read the last dimension as if its numbers lay side by side, and do not check that they do.
        q_BHSE, pair = q_BHSE.contiguous(), torch.stack((k_BKSE, v_BKSE)).contiguous()
        out: Any = None
        lse: Any = None
        for hop in range(size):
            coming = _Hop(pair, group) if hop < size - 1 else None  # on its way while this slice is worked on
            if hop <= rank:
                its_out, its_lse = _attend(q_BHSE, *_expand(pair, repeats), 0.0, hop == 0)
                out, lse = (its_out, its_lse) if out is None else _merge(out, lse, its_out, its_lse)
            pair = coming.wait() if coming is not None else pair
        ctx.group, ctx.repeats = group, repeats
        out = out.type_as(q_BHSE)  # merged in fp32, as log-sum-exps are
        ctx.save_for_backward(q_BHSE, k_BKSE, v_BKSE, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, grad_BHSE: Any) -> Any:
        # With the merged output and log-sum-exp, each slice's kernel gives exactly its share of the gradients.
        q_BHSE, k_BKSE, v_BKSE, out, lse = ctx.saved_tensors
        rank, size = distributed.get_rank(ctx.group), distributed.get_world_size(ctx.group)
        grad_BHSE, pair = grad_BHSE.contiguous(), torch.stack((k_BKSE, v_BKSE)).contiguous()
        # Added up in fp32; travels with its keys and values, and is home after `size` hops.
        grads = torch.zeros_like(pair, dtype=lse.dtype)
        grad_q = torch.zeros_like(q_BHSE, dtype=lse.dtype)
        for hop in range(size):
            coming = _Hop(pair, ctx.group) if hop < size - 1 else None
            if hop <= rank:
                expanded = _expand(pair, ctx.repeats)
                its = _attend_backward(grad_BHSE, q_BHSE, *expanded, out, lse, 0.0, hop == 0)
                grad_q += its[0]
                grads += torch.stack(its[1:]).unflatten(2, (-1, ctx.repeats)).sum(3)
            pair = coming.wait() if coming is not None else pair
            grads = _Hop(grads, ctx.group).wait()
        return grad_q.type_as(q_BHSE), grads[0].type_as(k_BKSE), grads[1].type_as(v_BKSE), None


class _Hop:
    """A tensor on its way to the next rank of the ring, and another one coming from the rank before."""

    def __init__(self, tensor: torch.Tensor, group: Any) -> None:
        rank, size = distributed.get_rank(group), distributed.get_world_size(group)
        after, before = ((rank + step) % size for step in (1, -1))
        self._going, self._coming = tensor, torch.empty_like(tensor)
        operations = [
            distributed.P2POp(distributed.isend, self._going, distributed.get_global_rank(group, after), group),
            distributed.P2POp(distributed.irecv, self._coming, distributed.get_global_rank(group, before), group),
        ]
        self._works = distributed.batch_isend_irecv(operations)

    def wait(self) -> torch.Tensor:
        """Return what came."""
        for work in self._works:
            work.wait()
        return self._coming


def _expand(pair: torch.Tensor, repeats: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values for every query head: [B, K, S, E] -> [B, H, S, E]."""
    keys, values = pair.repeat_interleave(repeats, 2)
    return keys, values


def _merge(
    out: torch.Tensor, lse: torch.Tensor, its_out: torch.Tensor, its_lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    merged = torch.logaddexp(lse, its_lse)
    share, its_share = ((part - merged).exp().unsqueeze(-1) for part in (lse, its_lse))
    return out * share + its_out * its_share, merged
