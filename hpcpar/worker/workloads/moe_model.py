"""A Llama whose feed-forward layers are mixtures of experts. Imports torch; knows nothing of parallelism.

Routing is DeepSeek-V3's (arXiv:2412.19437, section 2.1.2) without shared experts: scores are sigmoids, a token goes to
the K experts with the highest score plus bias, and their outputs are added up in proportion to their scores.
Balance comes from two sides, and neither depends on how a batch is spread over ranks or cut into micro-batches:

- after every update, the bias of each expert takes a step down where the global batch sent it more than the mean
  number of tokens, and up where less (Wang et al. 2024, arXiv:2408.15664, algorithm 1);
- the sequence-wise balance loss of DeepSeek-V3 (equations 17 to 20), a sum over samples. Here an expert's share of a
  sample is what it got, bias included. Its gradient is added to that of the training loss; its value is not.

Legend: B samples, S tokens, D model width, E experts, K experts a token, N rows, F width inside an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from hpcpar.worker.neural import ExpertStyle, SequenceStyle, Unit
from hpcpar.worker.workloads.llama_model import ATTENTION_PLAN, BLOCK_SLICES, Block, Shape, around


class Mixture(NamedTuple):
    """What a layer of experts must know beside the shape of its block; `Shape.hidden` is the width of one expert."""

    experts: int
    top_k: int
    balance_loss: float
    balance_rate: float


class Router(nn.Module):
    """Chooses the experts of every token."""

    slots: int | None = None
    """How many tokens of a sample an expert takes; None: any number."""
    add_up: Callable[[torch.Tensor], torch.Tensor] = staticmethod(lambda counts_BE: counts_BE)
    """Counts of the tokens that are here [B, E] -> those of the whole samples."""

    def __init__(self, dim: int, mixture: Mixture) -> None:
        super().__init__()
        self._mixture = mixture
        self.score = nn.Linear(dim, mixture.experts, bias=False)
        self.register_buffer("bias", torch.zeros(mixture.experts))
        self.scale = 1.0
        self.counts: Any = None

    def forward(self, x_BSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the experts of every token and the shares of their outputs, both [B, S, K]."""
        scores_BSE = self.score(x_BSD).float().sigmoid()
        chosen_BSK = (scores_BSE.detach() + self.bias).topk(self._mixture.top_k).indices
        shares_BSK = scores_BSE.gather(-1, chosen_BSK)
        if self._mixture.top_k > 1:
            shares_BSK = shares_BSK / shares_BSK.sum(-1, keepdim=True)
        counts_BE = F.one_hot(chosen_BSK, self._mixture.experts).sum((1, 2))
        return chosen_BSK, _Balanced.apply(shares_BSK, self._balance_loss(scores_BSE, counts_BE), counts_BE, self)

    def _balance_loss(self, scores_BSE: torch.Tensor, counts_BE: torch.Tensor) -> torch.Tensor:
        """Sum the loss over the tokens that are here: of T tokens, a sample has T times its equation 17."""
        whole_BE = self.add_up(counts_BE).float()
        busy_BE = whole_BE * (self._mixture.experts / whole_BE.sum(-1, keepdim=True))
        likely_BSE = scores_BSE / scores_BSE.sum(-1, keepdim=True)
        return self._mixture.balance_loss * (busy_BE.unsqueeze(1) * likely_BSE).sum()

    def begin(self, scale: float) -> None:
        """Begin to count anew; losses are multiplied by `scale`."""
        self.scale = scale
        self.counts = torch.zeros(self._mixture.experts + 1, dtype=torch.int64, device=self.bias.device)

    def settle(self, counts: torch.Tensor) -> None:
        """Move the bias against what the global batch did."""
        counts_E = counts[:-1].double()
        self.bias.add_((counts_E.mean() - counts_E).sign() * self._mixture.balance_rate)

    def count(self, counts_BE: torch.Tensor) -> None:
        """Count a micro-batch."""
        self.counts[:-1] += counts_BE.sum(0)
        if self.slots is not None:
            self.counts[-1] += (counts_BE - self.slots).clamp(min=0).sum()


class _Balanced(torch.autograd.Function):
    """Hands the shares on; its backward pass begins that of the balance loss (as Megatron-LM does), and counts."""

    @staticmethod
    def forward(ctx: Any, shares_BSK: Any, loss: Any, counts_BE: Any, router: Router) -> Any:
        ctx.router, ctx.counts_BE = router, counts_BE
        return shares_BSK.view_as(shares_BSK)

    @staticmethod
    def backward(ctx: Any, gradient_BSK: Any) -> Any:
        # A schedule that computes the gradients of weights later than those of inputs comes by twice.
        counts_BE, ctx.counts_BE = ctx.counts_BE, None
        if counts_BE is not None:
            ctx.router.count(counts_BE)
        return gradient_BSK, gradient_BSK.new_full((), ctx.router.scale), None, None


class Dispatch(nn.Module):
    """Brings every token to its experts, however many come."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self._experts = experts

    def forward(self, x_BSD: torch.Tensor, chosen_BSK: torch.Tensor, experts: nn.Module) -> torch.Tensor:
        """Return what the chosen experts make of the tokens [B, S, K, D]."""
        chosen_N = chosen_BSK.flatten()
        order_N = chosen_N.argsort(stable=True)
        rows_BSKD = x_BSD.unsqueeze(2).expand(*chosen_BSK.shape, x_BSD.shape[-1])
        sorted_ND = rows_BSKD.reshape(len(chosen_N), -1).index_select(0, order_N)
        made_ND = experts(sorted_ND, chosen_N.bincount(minlength=self._experts).tolist())
        return made_ND.index_select(0, order_N.argsort()).view_as(rows_BSKD)


class Experts(nn.Module):
    """As many SwiGLU layers as experts."""

    def __init__(self, shape: Shape, experts: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(experts, shape.hidden, shape.dim))
        self.up = nn.Parameter(torch.empty(experts, shape.hidden, shape.dim))
        self.output = nn.Parameter(torch.empty(experts, shape.dim, shape.hidden))

    def weights(self) -> tuple[torch.Tensor, ...]:
        """Return the parameters."""
        return self.gate, self.up, self.output

    def forward(self, rows_ND: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """Return what each expert makes of its rows, which are sorted by expert; without rows its gradient is 0."""
        made = [
            F.linear(F.silu(F.linear(x_ND, gate_FD)) * F.linear(x_ND, up_FD), output_DF)
            for x_ND, gate_FD, up_FD, output_DF in zip(rows_ND.split(list(counts)), *self.weights(), strict=True)
        ]
        return torch.cat(made)


class MixtureOfExperts(nn.Module):
    """In the place of a feed-forward layer."""

    def __init__(self, shape: Shape, mixture: Mixture) -> None:
        super().__init__()
        self.router = Router(shape.dim, mixture)
        self.dispatch = Dispatch(mixture.experts)
        self.experts = Experts(shape, mixture.experts)

    def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """Transform every token by the experts that are chosen for it."""
        chosen_BSK, shares_BSK = self.router(x_BSD)
        made_BSKD = self.dispatch(x_BSD, chosen_BSK, self.experts)
        return (made_BSKD * shares_BSK.to(made_BSKD.dtype).unsqueeze(-1)).sum(2)


SLICES: dict[str, SequenceStyle] = {**BLOCK_SLICES, "feed_forward.router": "counts"}
EXPERTS: dict[str, ExpertStyle] = {
    "feed_forward.router": "router",
    "feed_forward.dispatch": "dispatch",
    "feed_forward.experts": "experts",
}


def units(shape: Shape, mixture: Mixture, vocabulary: int, layers: int) -> tuple[Unit, ...]:
    """Return the embedding, the blocks and the head."""
    build = partial(Block, shape, partial(MixtureOfExperts, mixture=mixture))
    return around([Unit(f"block{i}", build, ATTENTION_PLAN, SLICES, EXPERTS) for i in range(layers)], shape, vocabulary)
