"""The model of the workload seq2seq. Imports torch; knows nothing of parallelism.

Vaswani et al. 2017 (arXiv:1706.03762) with normalisation before each part (Xiong et al. 2020, arXiv:2002.04745) and
learned positions. Source and target travel together as one tensor [B, S + T, D], S = T: an encoder block changes the
first half, a decoder block the second, so that the model can be cut anywhere.

Legend: B samples, S source and T target tokens, D model width, H heads, E width of a head, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from hpcpar.worker.data.pairs import PADDING
from hpcpar.worker.neural import TensorStyle, Unit


class Shape(NamedTuple):
    """What a block must know."""

    length: int
    """S and T."""
    dim: int
    heads: int
    hidden: int


class Embedding(nn.Module):
    """Tokens and the places at which they stand."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, shape.dim)
        self.places = nn.Parameter(torch.empty(2 * shape.length, shape.dim))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return both texts [B, S + T, D]."""
        return self.tokens(tokens) + self.places


class Attention(nn.Module):
    """Multi-head attention of one text to another, or to itself."""

    def __init__(self, shape: Shape, *, causal: bool = False) -> None:
        super().__init__()
        self._head, self._causal = shape.dim // shape.heads, causal
        # A bias of keys moves all scores of a query alike: its gradient is 0, and AdamW would follow rounding errors.
        self.key = nn.Linear(shape.dim, shape.dim, bias=False)
        self.query, self.value, self.output = (nn.Linear(shape.dim, shape.dim) for _ in range(3))

    def forward(self, x_BTD: torch.Tensor, memory_BSD: torch.Tensor) -> torch.Tensor:
        """Return for every token of x what it takes from the memory."""
        q, k, v = (self._split(y) for y in (self.query(x_BTD), self.key(memory_BSD), self.value(memory_BSD)))
        mixed_BHTE = F.scaled_dot_product_attention(q, k, v, is_causal=self._causal)
        return self.output(mixed_BHTE.transpose(1, 2).flatten(2))

    def _split(self, x_BSD: torch.Tensor) -> torch.Tensor:
        return x_BSD.unflatten(-1, (-1, self._head)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers on every token by itself."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.inner, self.output = nn.Linear(shape.dim, shape.hidden), nn.Linear(shape.hidden, shape.dim)

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Transform every token by itself."""
        return self.output(F.gelu(self.inner(x_BSD)))


class EncoderBlock(nn.Module):
    """Changes the source; the target passes through."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._length = shape.length
        self.attention_norm, self.attention = nn.LayerNorm(shape.dim), Attention(shape)
        self.feed_norm, self.feed_forward = nn.LayerNorm(shape.dim), FeedForward(shape)

    def forward(self, both: torch.Tensor) -> torch.Tensor:
        """Return both texts after this block."""
        x_BSD, target_BTD = both[:, : self._length], both[:, self._length :]
        normed = self.attention_norm(x_BSD)
        x_BSD = x_BSD + self.attention(normed, normed)
        x_BSD = x_BSD + self.feed_forward(self.feed_norm(x_BSD))
        return torch.cat((x_BSD, target_BTD), dim=1)


class DecoderBlock(nn.Module):
    """Changes the target, which looks at the source; the source passes through."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._length = shape.length
        self.self_norm, self.self_attention = nn.LayerNorm(shape.dim), Attention(shape, causal=True)
        self.cross_norm, self.cross_attention = nn.LayerNorm(shape.dim), Attention(shape)
        self.feed_norm, self.feed_forward = nn.LayerNorm(shape.dim), FeedForward(shape)

    def forward(self, both: torch.Tensor) -> torch.Tensor:
        """Return both texts after this block."""
        source_BSD, x_BTD = both[:, : self._length], both[:, self._length :]
        normed = self.self_norm(x_BTD)
        x_BTD = x_BTD + self.self_attention(normed, normed)
        x_BTD = x_BTD + self.cross_attention(self.cross_norm(x_BTD), source_BSD)
        x_BTD = x_BTD + self.feed_forward(self.feed_norm(x_BTD))
        return torch.cat((source_BSD, x_BTD), dim=1)


class Head(nn.Module):
    """Predicts the characters of the target."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self._length = shape.length
        self.norm, self.output = nn.LayerNorm(shape.dim), nn.Linear(shape.dim, vocabulary)

    def forward(self, both: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, T, V]."""
        return self.output(self.norm(both[:, self._length :]))


def _attention(name: str) -> dict[str, TensorStyle]:
    columns: dict[str, TensorStyle] = {f"{name}.{part}": "column" for part in ("query", "key", "value")}
    return {**columns, f"{name}.output": "row"}


_FEED: dict[str, TensorStyle] = {"feed_forward.inner": "column", "feed_forward.output": "row"}
ENCODER_PLAN: dict[str, TensorStyle] = {**_attention("attention"), **_FEED}
DECODER_PLAN: dict[str, TensorStyle] = {**_attention("self_attention"), **_attention("cross_attention"), **_FEED}


def units(shape: Shape, vocabulary: int, encoder_layers: int, decoder_layers: int) -> tuple[Unit, ...]:
    """Return the embedding, the blocks of both sides and the head."""
    return (
        Unit("embedding", partial(Embedding, shape, vocabulary), {"tokens": "vocabulary"}),
        *(Unit(f"encoder{i}", partial(EncoderBlock, shape), ENCODER_PLAN) for i in range(encoder_layers)),
        *(Unit(f"decoder{i}", partial(DecoderBlock, shape), DECODER_PLAN) for i in range(decoder_layers)),
        Unit("head", partial(Head, shape, vocabulary), {"output": "logits"}),
    )


def initialise(name: str, values: Any, generator: torch.Generator, layers: int) -> None:
    """Fill a parameter: one and zero for norms and biases; Xavier's normal for matrices, smaller into the residual."""
    if values.dim() == 1:
        values.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        return
    if name.startswith("embedding"):
        values.normal_(0.0, 0.5, generator=generator)
        return
    outputs, inputs = values.shape
    residual = name.endswith("output.weight") and not name.startswith("head")
    values.normal_(0.0, (2 / (inputs + outputs)) ** 0.5 / ((2 * layers) ** 0.5 if residual else 1), generator=generator)


def loss(logits_BTV: Any, targets_BT: Any) -> tuple[Any, float]:
    """Return the summed cross-entropy of what is no padding, and how many characters that is."""
    flat = logits_BTV.flatten(0, 1), targets_BT.flatten()
    return F.cross_entropy(*flat, ignore_index=PADDING, reduction="sum"), weigh(targets_BT)


def weigh(targets_BT: Any) -> float:
    """Return how many characters are no padding."""
    return float((targets_BT != PADDING).sum())
