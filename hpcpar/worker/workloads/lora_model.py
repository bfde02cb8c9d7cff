"""Low-rank adapters on the linear layers of a Llama's blocks; everything else is frozen. Imports torch.

Hu et al. 2021, LoRA (arXiv:2106.09685), section 4.1: h = W x + (alpha / r) B A x, with W frozen, A [r, in] normal and
B [out, r] zero at the start. Legend: B samples, S tokens, D model width, r rank of an adapter.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from hpcpar.worker.neural import SequenceStyle, TensorStyle, Unit
from hpcpar.worker.workloads import llama_model
from hpcpar.worker.workloads.llama_model import BLOCK_PLAN, BLOCK_SLICES, HEAD_PLAN, Block, Head, Shape

ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.output")
FEED_FORWARD = ("feed_forward.gate", "feed_forward.up", "feed_forward.output")


_WIDER = 10.0
"""How much wider the frozen last matrix is drawn."""


class Adapters(NamedTuple):
    """What every adapter must know."""

    rank: int
    alpha: float
    layers: tuple[str, ...]
    """Paths, inside a block, of the linear layers that have one."""


class Adapted(nn.Module):
    """A frozen linear layer with an adapter beside it."""

    def __init__(self, base: nn.Linear, adapters: Adapters) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, adapters.rank, bias=False)
        self.up = nn.Linear(adapters.rank, base.out_features, bias=False)
        self._scale = adapters.alpha / adapters.rank

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Return W x + (alpha / r) B A x."""
        return self.base(x_BSD) + self._scale * self.up(self.down(x_BSD))


def units(shape: Shape, vocabulary: int, layers: int, adapters: Adapters) -> tuple[Unit, ...]:
    """Return a unit a block; the embedding is in the first one and the head in the last one.

    So every unit has something to train, wherever a pipeline cuts.
    """
    return tuple(_unit(i, shape, vocabulary, layers, adapters) for i in range(layers))


def _unit(place: int, shape: Shape, vocabulary: int, layers: int, adapters: Adapters) -> Unit:
    parts: dict[str, Any] = {"block": partial(Block, shape)}
    tensor = {f"block.{path}": style for path, style in _plan(adapters).items()}
    slices: Mapping[str, SequenceStyle] = {f"block.{path}": style for path, style in BLOCK_SLICES.items()}
    if place == 0:
        parts = {"embedding": partial(nn.Embedding, vocabulary, shape.dim), **parts}
        tensor["embedding"] = "vocabulary"
    if place == layers - 1:
        parts["head"] = partial(Head, shape, vocabulary)
        tensor |= {f"head.{path}": style for path, style in HEAD_PLAN.items()}
    return Unit(f"block{place}", partial(_build, parts, adapters), tensor, slices)


def _plan(adapters: Adapters) -> dict[str, TensorStyle]:
    """Split a layer's frozen matrix as without an adapter, and beside it what has the axis that is split."""
    plan = dict(BLOCK_PLAN)
    for path in adapters.layers:
        style = plan.pop(path)
        plan[f"{path}.base"] = style
        plan |= {f"{path}.down": "row"} if style == "row" else {f"{path}.down": "replica", f"{path}.up": "column"}
    return plan


def _build(parts: Mapping[str, Any], adapters: Adapters) -> nn.Module:
    unit = nn.Sequential(OrderedDict((name, build()) for name, build in parts.items()))
    unit.requires_grad_(requires_grad=False)
    for path in adapters.layers:
        parent, _, name = f"block.{path}".rpartition(".")
        holder = unit.get_submodule(parent)
        setattr(holder, name, Adapted(getattr(holder, name), adapters))
    return unit


def is_adapter(name: str) -> bool:
    """Say whether a parameter, by its full name, is one of an adapter; every feed-forward layer has an `up` as well."""
    return name.endswith((".down.weight", ".up.weight")) and not name.endswith("feed_forward.up.weight")


def initialise(name: str, values: Any, generator: torch.Generator, layers: int) -> None:
    """Fill a parameter: adapters as LoRA's authors do, the frozen model as a Llama begins, but for its last matrix.

    With that one frozen as it begins, logits would stay near zero whatever adapters do.
    """
    if is_adapter(name) and name.endswith(".up.weight"):
        values.zero_()
    elif is_adapter(name):
        values.normal_(0.0, 1 / math.sqrt(values.shape[1]), generator=generator)
    else:
        llama_model.initialise(name.replace(".base.", "."), values, generator, layers)
    if name.endswith("head.output.weight"):
        values.mul_(_WIDER)
