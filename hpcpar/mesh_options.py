"""What can be chosen about the axes of the mesh; a strategy offers some of it under these names (a test compares)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from hpcpar.schedules import ScheduleName

CheckpointingName = Literal["none", "full"]
Megabytes = Annotated[float, Meta(gt=0)]


class EngineOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that strategies may choose beyond the mesh itself; each counts where its axis is on the mesh."""

    bucket_mb: Megabytes = 25.0
    """Gradients of replicas travel in buckets of this many MiB, while the backward pass still runs (torch's default).
    Not under a pipeline: there they travel in one message after it."""
    static_graph: bool = False
    """True promises that every step uses the same parameters: DDP may then plan ahead. With accumulation it sends the
    gradients of every micro-batch, as torch's static graph does not get on with leaving some out."""
    reshard_after_forward: bool | None = None
    """True gives the weights of a sharded unit back after its forward pass and gathers them again for the backward
    pass; False keeps them in between (as ZeRO-2 does). Not given: True wherever that is right."""
    cpu_offload: bool = False
    """Keep shards and optimizer state in the memory of the host."""
    sequence_parallel: bool = False
    """Between the matrices of a tensor-parallel block, every rank keeps its slice of the sequence only."""
    loss_parallel: bool = False
    """With tensor parallelism, leave the logits spread over the ranks: nobody holds all classes of a token."""
    activation_checkpointing: CheckpointingName = "none"
    """"full" keeps only what goes from unit to unit, and computes the rest of a unit again in its backward pass."""
    schedule: ScheduleName = "1f1b"
    """How micro-batches flow through a pipeline.

    "gpipe" keeps the activations of the whole batch, "1f1b" those of at most as many micro-batches as stages;
    "looped-bfs" and "interleaved-1f1b" do the same with several stages a rank, which shortens the bubble;
    "zero-bubble", "zbv" and "dualpipev" fill it with the gradients of weights."""
    virtual_stages: Annotated[int, Meta(ge=1)] | None = None
    """Stages a rank, where the schedule leaves it open. Not given: 2 there, 1 for gpipe and 1f1b."""
    capacity: Annotated[float, Meta(ge=0)] = 0.0
    """Of a mixture of experts: how many tokens of a sample an expert takes, as a multiple of what it gets when all are
    equally busy. What is more is dropped, and goes on beside the experts. 0: every token gets where it was sent."""


def engine_options(options: Any) -> EngineOptions:
    """Take from a strategy's options what the engine knows."""
    names = EngineOptions.__struct_fields__
    return EngineOptions(**{name: getattr(options, name) for name in names if hasattr(options, name)})
