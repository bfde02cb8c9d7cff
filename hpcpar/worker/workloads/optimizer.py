"""The optimizers that the neural workloads offer. Light at import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from hpcpar.worker.neural import Nonfinite

NotNegative = Annotated[float, Meta(ge=0)]


class OptimizerOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How weights are updated; a workload's options extend it."""

    optimizer: Literal["adamw", "adamw-fused", "sgd"] = "adamw"
    """"sgd" has momentum. "adamw-fused" updates all weights in one kernel (fast on a GPU); it rounds differently."""
    lr: Annotated[float, Meta(gt=0)] = 1e-3
    """Learning rate, constant over the run."""
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """Of sgd, or the first beta of adamw."""
    weight_decay: NotNegative = 0.0
    """Decoupled in adamw, added to the gradient in sgd."""
    max_grad_norm: NotNegative = 0.0
    """The gradient is scaled down to this 2-norm where it is longer; 0 leaves it as it is."""
    nonfinite: Nonfinite = "record"
    """What becomes of an update whose loss or gradient is not finite: "record" does it all the same, and the step's
    loss is null; "skip" leaves it out, and it counts as skipped; "stop" ends the run. Both look at every gradient."""


def make_optimizer(options: OptimizerOptions, parameters: Iterable[Any]) -> Any:
    """Return the torch.optim.Optimizer for these parameters."""
    import torch

    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay)
    betas = (options.momentum, 0.999)
    # None lets torch choose between its other implementations. SGD's fused one does not know sharded weights (2.13).
    fused = True if options.optimizer == "adamw-fused" else None
    return torch.optim.AdamW(parameters, lr=options.lr, betas=betas, weight_decay=options.weight_decay, fused=fused)
