"""What the ranks of the pool do for mixtures of experts. Called on all ranks at once."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from cases import build, plant_wrong_gradient
from torch.distributed.pipelining import PipelineStage
from torch.nn.functional import silu

from hpcpar.worker.mesh_engine import balance, clip, pipeline, replicate
from hpcpar.worker.workloads import moe_model


class Trace(NamedTuple):
    """What a rank saw of a training."""

    losses: list[tuple[float, float]]
    """(loss_sum, weight) of each step."""
    loads: list[tuple[float, float]]
    """On rank 0: the busiest expert's load over the mean, and the share that was dropped, of each step."""
    notes: list[str]


WRONG = {
    "gradients of experts not divided": (replicate, "averages_over", lambda context: 1),
    "the norm as if all had the same experts": (clip, "is_expert", lambda parameter: False),
    "the bias by a rank's own samples": (balance, "AXES", ("pp",)),
    "the trial of a pipeline counted": (pipeline, "_Stage", lambda begin, *a, **k: PipelineStage(*a, **k)),
}


def trace(rank: int, *, steps: int, plant: bool = False, wrong: str = "", **arguments: Any) -> Trace | None:
    """Train for some steps; `plant` makes one gradient of the last rank wrong. A world of one rank is rank 0's.

    `wrong` leaves out what the engine does about one of the combinations that train the wrong model.
    """
    if rank >= arguments["world_size"]:
        return None
    with patch.object(*WRONG[wrong]) if wrong else nullcontext():
        trainer = build(rank, steps=steps, **arguments)
    if plant and rank == arguments["world_size"] - 1:
        plant_wrong_gradient(trainer._update.optimizer)
    results = [trainer.step(trainer.batch(step)) for step in range(1, steps + 1)]
    records = trainer.complete([_step(number) for number in range(steps)])
    trainer.close()
    losses = [(0.0 if r.loss_sum is None else float(r.loss_sum), r.weight) for r in results]
    return Trace(losses, [(r.expert_load, r.dropped) for r in records] if rank == 0 else [], list(trainer.notes))


def _step(number: int) -> Any:
    from hpcpar.records import Step

    return Step(step=number + 1, time_s=0.0, time_min_s=0.0, time_mean_s=0.0, slowest=0)


def simulate(rank: int, *, capacity: float, **arguments: Any) -> Trace | None:
    """Train alone with layers of experts that are written as plainly as can be: nothing is sorted, nothing travels."""
    if rank:
        return None
    with patch.object(moe_model.MixtureOfExperts, "forward", _plain(capacity)):
        return trace(0, world_size=1, strategy="single", strategy_options={}, **arguments)


def _plain(capacity: float) -> Any:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        chosen, shares = self.router(x)
        experts = len(self.experts.gate)
        _, tokens, choices = chosen.shape
        self.router.slots = math.ceil(capacity * tokens * choices / experts) if capacity else None
        kept = _kept(chosen.tolist(), self.router.slots)
        total = torch.zeros_like(x)
        for expert in range(experts):
            gate, up, output = (weights[expert] for weights in self.experts.weights())
            made = (silu(x @ gate.T) * (x @ up.T)) @ output.T
            its = (chosen == expert) & kept
            total = total + made * (shares * its).sum(-1, keepdim=True)
        return total

    return forward


def _kept(chosen: list[list[list[int]]], slots: int | None) -> torch.Tensor:
    kept = torch.zeros(len(chosen), len(chosen[0]), len(chosen[0][0]), dtype=torch.bool)
    for sample, tokens in enumerate(chosen):
        taken: dict[int, int] = {}
        for choice in range(len(tokens[0])):
            for place, experts in enumerate(tokens):
                taken[experts[choice]] = taken.get(experts[choice], 0) + 1
                kept[sample, place, choice] = slots is None or taken[experts[choice]] <= slots
    return kept


def held(rank: int, **arguments: Any) -> int:
    """Return how many numbers of the model's parameters this rank has."""
    from hpcpar.worker.mesh_engine.shard import local

    return sum(local(parameter).numel() for parameter in build(rank, **arguments).model.parameters())


def routed(rank: int, *, updates: int) -> Any:
    """Route the same tokens again and again; return gradients and loads beside those of the published equations."""
    if rank:
        return None
    numbers = torch.Generator().manual_seed(1)
    rate, factor, scale = 0.003, 0.5, 0.25
    router = moe_model.Router(8, moe_model.Mixture(experts=4, top_k=2, balance_loss=factor, balance_rate=rate))
    router.score.weight.data.normal_(0.0, 0.3, generator=numbers)
    tokens = torch.randn(3, 16, 8, generator=numbers) + 0.5  # not around zero: some experts are liked better
    loads, biases = [], []
    for _ in range(updates):
        router.begin(scale)
        router.zero_grad()
        (router(tokens)[1][..., 0].sum() * scale).backward()
        loads.append(router.counts[:-1].tolist())
        biases.append(router.bias.tolist())
        router.settle(router.counts)
    expected = _equations(router.score.weight.detach(), torch.tensor(biases[-1]), tokens, factor, scale)
    return {
        "gradient": router.score.weight.grad.flatten().tolist(),
        "expected": expected.flatten().tolist(),
        "loads": loads,
        "biases": [*biases, router.bias.tolist()],
    }


def _equations(weight: Any, bias: Any, tokens: torch.Tensor, factor: float, scale: float) -> torch.Tensor:
    """Differentiate equations 12 to 20 of DeepSeek-V3, one sample after the other, in float64."""
    weight = weight.double().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for sample in tokens.double():
        length, experts = len(sample), len(weight)
        scores = (sample @ weight.T).sigmoid()
        chosen = (scores + bias.double()).topk(2, dim=-1).indices
        taken = torch.stack([scores[range(length), chosen[:, k]] for k in range(2)], dim=-1)
        total = total + (taken[:, 0] / taken.sum(-1)).sum()
        shares = torch.stack([(chosen == expert).sum() for expert in range(experts)]) * experts / (2 * length)
        likely = (scores / scores.sum(-1, keepdim=True)).mean(0)
        total = total + length * factor * (shares * likely).sum()
    (total * scale).backward()
    return weight.grad
