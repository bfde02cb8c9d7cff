"""Runs of strategies that synchronise with delay, in the pool, and how far they are from what they should be."""

from __future__ import annotations

from typing import Any

import numpy as np

STEPS = 9
TOLERANCE = 2e-5
LEAD = 3
"""How many steps rank 0 has done before rank 1 begins, where it is to be late."""
MLP = {"hidden": 12, "layers": 2}
PLAIN = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.01}
MOMENTUM = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
CLIPPED = {**MOMENTUM, "max_grad_norm": 0.5}
ADAMW = {"optimizer": "adamw", "lr": 3e-3, "momentum": 0.9, "weight_decay": 0.01}


def train(pools: Any, ranks: int, strategy: str, options: Any, inner: Any, **more: Any) -> list[dict[str, Any]]:
    arguments = {"grad_accum": 2, "steps": STEPS, "global_batch": 16, **more}
    found: list[dict[str, Any]] = pools(ranks).run(
        "delayed_cases.trace",
        world_size=ranks,
        strategy=strategy,
        strategy_options=options,
        workload="mlp",
        workload_options={**MLP, **inner},
        **arguments,
    )
    return found


def losses(traces: list[dict[str, Any]]) -> list[float]:
    """Do what the collector of the steps does: sum(loss_sum) / sum(weight) over the ranks."""
    steps = zip(*(found["losses"] for found in traces), strict=True)
    return [sum(loss for loss, _ in ranks) / sum(weight for _, weight in ranks) for ranks in steps]


def distance(left: list[dict[str, Any]], right: list[list[Any]]) -> float:
    """Return the largest difference between the weights of all ranks after all steps and right[step][rank]."""
    return max(
        float(np.abs(mine - theirs).max())
        for step, replicas in enumerate(right)
        for found, model in zip(left, replicas, strict=True)
        for mine, theirs in zip(found["weights"][step], model, strict=True)
    )
