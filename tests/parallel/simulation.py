"""Replicas of the workload mlp in plain NumPy, float64: the oracle of everything that updates with delay.

Nothing of hpcpar or torch is used here. Legend: B samples, I inputs, O outputs of a layer; a model is a list of arrays,
weight [O, I] and bias [O] of one layer after the other; between layers GELU, after the last one cross-entropy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import erf

Model = list[np.ndarray]
Share = tuple[np.ndarray, np.ndarray]


def gradient(model: Model, share: Share) -> tuple[float, float, Model]:
    """Return the summed loss of a share, its weight, and the gradient of its mean loss."""
    values, labels = share[0].astype(np.float64), share[1]
    inputs, before = [], []
    for i in range(0, len(model), 2):
        inputs.append(values)
        before.append(values @ model[i].T + model[i + 1])
        values = before[-1] * 0.5 * (1 + erf(before[-1] / np.sqrt(2))) if i + 2 < len(model) else before[-1]
    shifted = values - values.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    places = np.arange(len(labels))
    slope = np.exp(logs)
    slope[places, labels] -= 1
    slope /= len(labels)
    gradients: Model = []
    for i in reversed(range(len(before))):
        if i + 1 < len(before):
            x = before[i]
            slope = slope * (0.5 * (1 + erf(x / np.sqrt(2))) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi))
        gradients = [slope.T @ inputs[i], slope.sum(axis=0), *gradients]
        slope = slope @ model[2 * i]
    return -float(logs[places, labels].sum()), float(len(labels)), gradients


class Sgd:
    """b <- mu b + g + wd x;  x <- x - lr b. The first b is the first gradient (as if b were 0 before)."""

    def __init__(self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, **_: Any) -> None:
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.moments: list[Model] = []

    def step(self, model: Model, gradients: Model) -> None:
        if not self.moments:
            self.moments = [[np.zeros_like(x) for x in model]]
        for x, b, g in zip(model, self.moments[0], gradients, strict=True):
            b[...] = self.momentum * b + g + self.weight_decay * x
            x[...] = x - self.lr * b


class AdamW:
    """Loshchilov and Hutter 2019, algorithm 2 without a schedule; epsilon 1e-8."""

    def __init__(self, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, **_: Any) -> None:
        self.lr, self.beta1, self.weight_decay = lr, momentum, weight_decay
        self.moments: list[Model] = []
        self.steps = 0

    def step(self, model: Model, gradients: Model) -> None:
        if not self.moments:
            self.moments = [[np.zeros_like(x) for x in model] for _ in range(2)]
        self.steps += 1
        for x, m, v, g in zip(model, *self.moments, gradients, strict=True):
            decayed = x * (1 - self.lr * self.weight_decay)
            m[...] = self.beta1 * m + (1 - self.beta1) * g
            v[...] = 0.999 * v + 0.001 * g * g
            x[...] = decayed - self.lr * (m / (1 - self.beta1**self.steps)) / (
                np.sqrt(v / (1 - 0.999**self.steps)) + 1e-8
            )


def optimizer(options: dict[str, Any]) -> Any:
    return {"sgd": Sgd, "adamw": AdamW}[options["optimizer"]](**{k: v for k, v in options.items() if k != "optimizer"})


def mean(models: list[Model]) -> Model:
    return [np.mean(arrays, axis=0) for arrays in zip(*models, strict=True)]


def copy(model: Model) -> Model:
    return [np.array(x, dtype=np.float64) for x in model]


def clipped(gradients: Model, limit: float) -> Model:
    """Return gradients whose joint 2-norm is at most the limit; 0 is none."""
    norm = float(np.sqrt(sum((g**2).sum() for g in gradients)))
    return [g * (limit / (norm + 1e-6)) for g in gradients] if limit and norm > limit else gradients


def local_sgd(
    initial: Model,
    shares: list[list[Share]],
    inner: dict[str, Any],
    *,
    period: int,
    warmup: int = 0,
    average_state: bool = True,
    outer: tuple[float, float] | None = None,
) -> tuple[list[float], list[list[Model]]]:
    """Simulate the documented rule for shares of equal weight.

    Args:
        initial: the weights at the begin.
        shares: of every replica, the batch of every step.
        inner: the options of the workload's optimizer.
        outer: (eta, mu) of DiLoCo's outer optimizer.

    Returns:
        The loss of every step, and the weights of every replica after every step.
    """
    replicas = [copy(initial) for _ in shares]
    inners = [optimizer(inner) for _ in shares]
    common, velocity = None, [np.zeros_like(x) for x in copy(initial)]
    losses, history = [], []
    last = len(shares[0])
    for step in range(1, last + 1):
        if common is None and step > warmup:
            common = copy(replicas[0])
        found = [gradient(x, batches[step - 1]) for x, batches in zip(replicas, shares, strict=True)]
        losses.append(sum(loss for loss, _, _ in found) / sum(weight for _, weight, _ in found))
        gradients = [g for _, _, g in found]
        if step <= warmup:
            gradients = [mean(gradients)] * len(replicas)
        gradients = [clipped(g, inner.get("max_grad_norm", 0.0)) for g in gradients]
        for x, one, g in zip(replicas, inners, gradients, strict=True):
            one.step(x, g)
        if step > warmup and ((step - warmup) % period == 0 or step == last):
            middle = mean(replicas)
            if outer is not None:
                eta, mu = outer
                assert common is not None
                way = [z - m for z, m in zip(common, middle, strict=True)]
                velocity = [mu * b + d for b, d in zip(velocity, way, strict=True)]
                common = [z - eta * (d + mu * b) for z, d, b in zip(common, way, velocity, strict=True)]
                middle = common
            replicas = [copy(middle) for _ in replicas]
            if average_state:
                for kept in zip(*(one.moments for one in inners), strict=True):
                    together = mean(list(kept))
                    for one in kept:
                        one[:] = copy(together)
        history.append([copy(x) for x in replicas])
    return losses, history


def stale(
    initial: Model, shares: list[list[Share]], inner: dict[str, Any], arrivals: list[list[tuple[int, int]]]
) -> tuple[list[float], list[Model]]:
    """Replay a run with a parameter server, for shares of equal weight.

    Args:
        arrivals: of every step the (rank, staleness) of its gradients; the rest is as in `local_sgd`.

    Returns:
        The loss of every step, and the parameters after 0, 1, 2, ... updates.
    """
    versions, server = [copy(initial)], optimizer(inner)
    losses = []
    for step, brought in enumerate(arrivals, start=1):
        found = [gradient(versions[step - 1 - late], shares[rank][step - 1]) for rank, late in sorted(brought)]
        losses.append(sum(loss for loss, _, _ in found) / sum(weight for _, weight, _ in found))
        newest = copy(versions[-1])
        server.step(newest, mean([g for _, _, g in found]))
        versions.append(newest)
    return losses, versions
