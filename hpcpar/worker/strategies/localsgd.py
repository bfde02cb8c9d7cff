"""Delayed synchronisation: replicas update alone and meet now and then (local SGD, post-local SGD, DiLoCo).

With period 1 and plain averaging it computes what ddp computes, for optimizers whose update is linear in the gradient:
SGD, with weight decay and with momentum. Momentum needs the optimizer's state averaged as well where the ranks' shares
differ in weight (padding); where they weigh the same, it equals ddp even without. AdamW divides by the root of a mean
of squares, which is not linear: no averaging of its parameters and moments equals ddp.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class LocalSgdOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When replicas meet, and what they do then."""

    period: Annotated[int, Meta(ge=1)] = 8
    """Updates between two meetings. DiLoCo was published with 500."""
    warmup: Annotated[int, Meta(ge=0)] = 0
    """This many first steps average gradients as ddp does (post-local SGD)."""
    outer: Literal["average", "nesterov"] = "average"
    """"average": replicas go on from their mean. "nesterov": DiLoCo, the way to the mean is the gradient of an outer
    optimizer."""
    outer_lr: Annotated[float, Meta(gt=0)] = 0.7
    """Of nesterov (Douillard et al. 2023, arXiv:2311.08105, section 3); 1 without momentum is plain averaging."""
    outer_momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """Of nesterov; same source."""
    optimizer_state: Literal["auto", "average", "keep"] = "auto"
    """Whether the moments of the workload's optimizer are averaged at a meeting, which doubles (SGD) or triples (AdamW)
    what is sent. "auto": with plain averaging yes, so that period 1 equals ddp with SGD; under DiLoCo no, as it was
    published."""


class LocalSgd:
    """dp_replicate takes all ranks."""

    name = "localsgd"
    summary = "replicas that update alone and average now and then; DiLoCo"
    kinds = frozenset({"neural"})
    extras = ("torch",)
    no_checkpoints = "its replicas differ between two meetings"
    Options = LocalSgdOptions

    def layout(self, world: World, options: LocalSgdOptions) -> Mesh:
        """Replicate over all ranks."""
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: LocalSgdOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.delayed.local_sgd import Rhythm, build

        state = options.optimizer_state
        rhythm = Rhythm(
            period=options.period,
            warmup=options.warmup,
            outer=options.outer,
            outer_lr=options.outer_lr,
            outer_momentum=options.outer_momentum,
            average_state=state == "average" or (state == "auto" and options.outer == "average"),
        )
        return build(context, workload, rhythm)


STRATEGY = LocalSgd()
