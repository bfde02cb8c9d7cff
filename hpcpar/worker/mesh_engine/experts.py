"""Expert parallelism over ep: every rank has some of the experts, tokens travel to them and back (all-to-all).

Lepikhin et al. 2020 (GShard, arXiv:2006.16668), section 3. ep is carved out of the data axes: its ranks have different
samples. What is not an expert is trained as without ep; an expert's gradient comes from the samples of all ranks that
share the experts, through the way back of the tokens, and is added up over the ranks that hold the same experts.

Legend: B samples, S tokens, D model width, E experts, K experts a token, C slots, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import distributed, nn

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Declaration
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import shard
from hpcpar.worker.neural import Unit


def apply(module: nn.Module, unit: Unit, context: JobContext, declared: Declaration, options: EngineOptions) -> None:
    """Spread the experts of a unit, and give them room for as many tokens as the options say, in place.

    Its weights may be on the meta device: nothing is sent.
    """
    for path, style in unit.experts.items():
        target: Any = module.get_submodule(path)
        if style == "experts" and context.mesh.ep > 1:
            _spread(target, context.mesh.ep)
            target.forward = partial(_travel, target.forward, group=context.groups["ep"], equal=options.capacity > 0)
        elif style == "dispatch" and options.capacity:
            module.set_submodule(path, Slots(_experts(declared), slots(declared, options)))
        elif style == "router" and options.capacity:
            target.slots = slots(declared, options)


def mark(module: nn.Module, unit: Unit, context: JobContext) -> None:
    """Have the weights of spread experts say what they are slices of, as soon as they are where they stay.

    They are plain tensors: an optimizer takes them together with all others, and nothing is planned when they are used.
    """
    if context.mesh.ep == 1:
        return
    from torch.distributed.tensor import Shard  # 0.3 s: only where it is used

    for path, style in unit.experts.items():
        if style == "experts":
            for parameter in module.get_submodule(path).parameters():
                shard.mark_slice(parameter, context.ep_mesh, (Shard(0),))


def slots(declared: Declaration, options: EngineOptions) -> int:
    """Return how many tokens of a sample an expert takes: the capacity of GShard's algorithm 1, a group is a sample."""
    assert declared.experts is not None
    assert declared.sequence is not None
    return math.ceil(options.capacity * declared.sequence * declared.experts.chosen / declared.experts.number)


def _experts(declared: Declaration) -> int:
    assert declared.experts is not None
    return declared.experts.number


def _spread(experts: nn.Module, ranks: int) -> None:
    for name, parameter in list(experts.named_parameters()):
        part = parameter.new_empty(parameter.shape[0] // ranks, *parameter.shape[1:])
        experts.register_parameter(name, nn.Parameter(part))


def _travel(
    compute: Callable[..., torch.Tensor], rows_ND: torch.Tensor, counts: Sequence[int], *, group: Any, equal: bool
) -> torch.Tensor:
    """Send rows that are sorted by expert to where the experts are, and what these make of them back.

    Args:
        compute: (rows sorted by this rank's experts, how many for each) -> rows.
        equal: every rank sends as many rows to every expert, so that nobody needs to be told.
    """
    ranks = distributed.get_world_size(group)
    each = len(counts) // ranks
    coming = list(counts[:each]) * ranks if equal else _exchange(counts, rows_ND.device, group)
    sent, received = ([sum(numbers[i * each : (i + 1) * each]) for i in range(ranks)] for numbers in (counts, coming))
    here_ND = _AllToAll.apply(rows_ND, sent, received, group)
    # What comes is sorted by sender, then by expert; the experts want it by expert, then by sender.
    by_expert = [sender * each + expert for expert in range(each) for sender in range(ranks)]
    pieces = here_ND.split(coming)
    made_ND = compute(torch.cat([pieces[i] for i in by_expert]), [sum(coming[i::each]) for i in range(each)])
    made = dict(zip(by_expert, made_ND.split([coming[i] for i in by_expert]), strict=True))
    return _AllToAll.apply(torch.cat([made[i] for i in range(len(coming))]), received, sent, group)


def _exchange(counts: Sequence[int], device: torch.device, group: Any) -> list[int]:
    """Return how many rows every rank has for each of this rank's experts."""
    sent = torch.tensor(counts, device=device)
    received = torch.empty_like(sent)
    distributed.all_to_all_single(received, sent, group=group)
    numbers: list[int] = received.tolist()
    return numbers


class _AllToAll(torch.autograd.Function):
    """Consecutive rows to every rank; their gradients come back the same way."""

    @staticmethod
    def forward(ctx: Any, rows_ND: Any, sent: list[int], received: list[int], group: Any) -> Any:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        return _all_to_all(rows_ND, sent, received, group)

    @staticmethod
    def backward(ctx: Any, gradient_ND: Any) -> Any:
        return _all_to_all(gradient_ND, ctx.received, ctx.sent, ctx.group), None, None, None


def _all_to_all(rows_ND: Any, sent: list[int], received: list[int], group: Any) -> Any:
    out_ND = rows_ND.new_empty(sum(received), rows_ND.shape[1])
    distributed.all_to_all_single(out_ND, rows_ND.contiguous(), received, sent, group=group)
    return out_ND


class Slots(nn.Module):
    """Brings tokens to their experts as long as there is room: an expert takes C tokens of every sample.

    All first choices of a sample come before all second choices, each in the order of the tokens (GShard, algorithm 1;
    there without the random second choice). What finds no room gets zeros back. Empty slots are rows of zeros: every
    message has the same size, and no rank needs to be told how many rows will come.
    """

    def __init__(self, experts: int, slots: int) -> None:
        super().__init__()
        self._experts, self._slots = experts, slots

    def forward(self, x_BSD: torch.Tensor, chosen_BSK: torch.Tensor, experts: nn.Module) -> torch.Tensor:
        """Return what the chosen experts make of the tokens [B, S, K, D]."""
        rows_BSKD = x_BSD.unsqueeze(2).expand(*chosen_BSK.shape, x_BSD.shape[-1])
        rooms = len(x_BSD) * self._slots
        slot_N, last = self._slot(chosen_BSK).flatten(), self._experts * rooms
        filled_ND = x_BSD.new_zeros(last + 1, x_BSD.shape[-1]).index_add(0, slot_N, rows_BSKD.flatten(0, 2))
        made_ND = experts(filled_ND[:last], [rooms] * self._experts)
        nothing = made_ND.new_zeros(1, made_ND.shape[1])
        return torch.cat((made_ND, nothing)).index_select(0, slot_N).view_as(rows_BSKD)

    def _slot(self, chosen_BSK: torch.Tensor) -> torch.Tensor:
        """Number the slots by expert, sample and place; what finds no room gets the number after the last one."""
        samples, _, choices = chosen_BSK.shape
        ordered_BN = chosen_BSK.transpose(1, 2).flatten(1)
        before_BNE = nn.functional.one_hot(ordered_BN, self._experts).cumsum(1)
        place_BN = before_BNE.gather(2, ordered_BN.unsqueeze(2)).squeeze(2) - 1
        sample_B1 = torch.arange(samples, device=chosen_BSK.device).unsqueeze(1)
        slot_BN = (ordered_BN * samples + sample_B1) * self._slots + place_BN
        slot_BN = slot_BN.masked_fill(place_BN >= self._slots, self._experts * samples * self._slots)
        return slot_BN.unflatten(1, (choices, -1)).transpose(1, 2)
