"""The Llama model. Imports torch; knows nothing of parallelism.

Touvron et al. 2023 (arXiv:2302.13971): pre-normalisation with RMSNorm, SwiGLU, rotary embeddings; grouped-query
attention as in Llama 2 and 3. Legend: B samples, S tokens, D model width, H heads, K key and value heads, E width of a
head, F width inside SwiGLU, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from hpcpar.worker.neural import SequenceStyle, TensorStyle, Unit
from hpcpar.worker.workloads.llama_folder import Scaling

_STD = 0.02
"""Standard deviation of the initial weights (GPT-2, Llama)."""


class Shape(NamedTuple):
    """What a block must know."""

    dim: int
    heads: int
    kv_heads: int
    hidden: int
    rope_theta: float
    norm_eps: float = 1e-5
    scaling: Scaling | None = None
    """Of the rotary wavelengths."""


def shape_of(options: Any) -> Shape:
    """Return what a block must know of a workload's options."""
    return Shape(options.dim, options.heads, options.kv_heads, options.hidden, options.rope_theta)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary embeddings."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._head = shape.dim // shape.heads
        self.query = nn.Linear(shape.dim, shape.heads * self._head, bias=False)
        self.key = nn.Linear(shape.dim, shape.kv_heads * self._head, bias=False)
        self.value = nn.Linear(shape.dim, shape.kv_heads * self._head, bias=False)
        self.output = nn.Linear(shape.heads * self._head, shape.dim, bias=False)
        self.rotary = Rotary(self._head, shape.rope_theta, shape.scaling)
        self.mix = Mix()

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Mix every token with the ones before it."""
        batch, sequence, _ = x_BSD.shape
        q_BHSE = self.rotary(self._split(self.query(x_BSD)))
        k_BKSE = self.rotary(self._split(self.key(x_BSD)))
        mixed_BHSE = self.mix(q_BHSE, k_BKSE, self._split(self.value(x_BSD)))
        return self.output(mixed_BHSE.transpose(1, 2).reshape(batch, sequence, -1))

    def _split(self, x_BSD: torch.Tensor) -> torch.Tensor:
        return x_BSD.unflatten(-1, (-1, self._head)).transpose(1, 2)


class Mix(nn.Module):
    """The attention itself."""

    def forward(self, q_BHSE: torch.Tensor, k_BKSE: torch.Tensor, v_BKSE: torch.Tensor) -> torch.Tensor:
        """Return the mixed values [B, H, S, E]."""
        grouped = q_BHSE.shape[1] != k_BKSE.shape[1]
        return F.scaled_dot_product_attention(q_BHSE, k_BKSE, v_BKSE, is_causal=True, enable_gqa=grouped)


class Rotary(nn.Module):
    """Rotary embeddings of consecutive tokens."""

    part = 0
    """Which slice of the sequence these tokens are; all slices have the same length."""

    def __init__(self, head: int, theta: float, scaling: Scaling | None = None) -> None:
        super().__init__()
        self._head, self._theta, self._scaling = head, theta, scaling

    def forward(self, x_BHSE: torch.Tensor) -> torch.Tensor:
        """Turn every token by the angles of its place in the whole sequence."""
        length = x_BHSE.shape[2]
        places = range(self.part * length, (self.part + 1) * length)
        tables = rope_tables(places, self._head, self._theta, x_BHSE.device, self._scaling)
        return rotate(x_BHSE, *tables).type_as(x_BHSE)  # angles keep fp32 where matrices are multiplied in bfloat16


@torch.compiler.assume_constant_result
def rope_tables(
    places: range,
    head: int,
    theta: float,
    device: torch.device,
    scaling: Scaling | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine [S, E/2] of the rotary angles (Su et al. 2021, arXiv:2104.09864, equation 15).

    In fp32, of the tokens that stand at these places of their sequence. Compiled code has them in it, and never makes
    them.
    """
    return _cached_tables(places, head, theta, device, scaling)


@lru_cache(maxsize=8)
def _cached_tables(
    places: range,
    head: int,
    theta: float,
    device: torch.device,
    scaling: Scaling | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = theta ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    if scaling is not None:
        frequencies = scaled(frequencies, scaling)
    angles = torch.outer(torch.arange(places.start, places.stop, dtype=torch.float64), frequencies)
    return angles.cos().to(device, torch.float32), angles.sin().to(device, torch.float32)


def scaled(frequencies: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """Divide the frequencies of long wavelengths by the factor, leave those of short ones, and blend between them.

    Source: Llama 3.1's reference code (github.com/meta-llama/llama-models, models/llama3/model.py, apply_scaling).
    """
    turns = scaling.original_max_position_embeddings * frequencies / (2 * torch.pi)
    short = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return frequencies * ((1 - short) / scaling.factor + short)


def rotate(x_BHSE: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + E/2) of every head by its token's angle."""
    low, high = x_BHSE.chunk(2, dim=-1)
    return torch.cat((low * cosine - high * sine, high * cosine + low * sine), dim=-1)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.dim, shape.hidden, bias=False)
        self.up = nn.Linear(shape.dim, shape.hidden, bias=False)
        self.output = nn.Linear(shape.hidden, shape.dim, bias=False)

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Transform every token by itself."""
        return self.output(F.silu(self.gate(x_BSD)) * self.up(x_BSD))


class Block(nn.Module):
    """Attention and feed-forward, each after a normalisation and beside a residual."""

    def __init__(self, shape: Shape, feed_forward: Callable[[Shape], nn.Module] = FeedForward) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.dim, eps=shape.norm_eps)
        self.attention = Attention(shape)
        self.feed_norm = nn.RMSNorm(shape.dim, eps=shape.norm_eps)
        self.feed_forward = feed_forward(shape)

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Return the tokens after this block."""
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD))
        return x_BSD + self.feed_forward(self.feed_norm(x_BSD))


class Head(nn.Module):
    """Normalise and predict the next token."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(shape.dim, eps=shape.norm_eps)
        self.output = nn.Linear(shape.dim, vocabulary, bias=False)

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, S, V]."""
        return self.output(self.norm(x_BSD))


ATTENTION_PLAN: dict[str, TensorStyle] = {
    "attention_norm": "norm",
    "attention": "gather",
    "attention.query": "column",
    "attention.key": "column",
    "attention.value": "column",
    "attention.output": "row",
    "feed_norm": "norm",
}
BLOCK_PLAN: dict[str, TensorStyle] = {
    **ATTENTION_PLAN,
    "feed_forward": "gather",
    "feed_forward.gate": "column",
    "feed_forward.up": "column",
    "feed_forward.output": "row",
}
"""Two pairs a block (Shoeybi et al. 2019, arXiv:1909.08053, section 3); norms as in Korthikanti et al. 2022."""
BLOCK_SLICES: dict[str, SequenceStyle] = {"attention.rotary": "positions", "attention.mix": "attention"}
HEAD_PLAN: dict[str, TensorStyle] = {"norm": "norm", "output": "logits"}


def units(shape: Shape, vocabulary: int, layers: int) -> tuple[Unit, ...]:
    """Return the embedding, the blocks and the head."""
    return around(
        [Unit(f"block{i}", partial(Block, shape), BLOCK_PLAN, BLOCK_SLICES) for i in range(layers)], shape, vocabulary
    )


def around(blocks: Sequence[Unit], shape: Shape, vocabulary: int) -> tuple[Unit, ...]:
    """Put the embedding before the blocks and the head behind them."""
    embedding = Unit("embedding", partial(nn.Embedding, vocabulary, shape.dim), {"": "vocabulary"})
    return (embedding, *blocks, Unit("head", partial(Head, shape, vocabulary), HEAD_PLAN))


def initialise(name: str, values: Any, generator: torch.Generator, layers: int) -> None:
    """Fill a parameter: ones for norms; normal for weights, those that write into the residual smaller (GPT-2, 2.3).

    The bias of a router, a buffer, begins at zero.
    """
    if values.dim() == 1:
        values.fill_(0.0 if name.endswith("router.bias") else 1.0)
        return
    residual = name.endswith(("attention.output.weight", "feed_forward.output.weight", "experts.output"))
    values.normal_(0.0, _STD / (2 * layers) ** 0.5 if residual else _STD, generator=generator)


def loss(logits_BSV: Any, targets_BS: Any) -> tuple[Any, float]:
    """Return the summed cross-entropy and the number of tokens."""
    summed = F.cross_entropy(logits_BSV.flatten(0, 1), targets_BS.flatten(), reduction="sum")
    return summed, weigh(targets_BS)


def weigh(targets_BS: Any) -> float:
    """Return the number of tokens."""
    return float(targets_BS.numel())
