"""What can be chosen about the axes of the mesh; a strategy offers some of it under these names (a test compares)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from hpcpar.schedules import ScheduleName

CheckpointingName = Literal["none", "selective", "full"]
PrecisionName = Literal["fp32", "bf16", "fp8"]
CompressionName = Literal["none", "fp16", "bf16", "powersgd"]
Megabytes = Annotated[float, Meta(gt=0)]
Rank = Annotated[int, Meta(ge=1)]


class UnitOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a unit of the model is computed: every strategy of the mesh offers this."""

    precision: PrecisionName = "fp32"
    """"bf16" multiplies matrices in bfloat16. Weights, gradients, optimizer state, the sums over ranks that make
    gradients, and the loss stay in fp32. Under fsdp weights travel as bfloat16. "fp8" is bf16 whose linear layers
    multiply in float8 (torchao), where the device can."""
    activation_checkpointing: CheckpointingName = "none"
    """"full" keeps only what goes from unit to unit, and computes the rest of a unit again in its backward pass;
    "selective" keeps what matrix products and attention gave as well, and computes the cheap rest again."""
    compile: bool = False
    """Compile the units, each by itself (torch.compile). The first step then takes many seconds longer."""


class DeepspeedOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a unit of the model is computed where DeepSpeed spreads it: what of UnitOptions goes with its engine."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """"bf16" multiplies matrices in bfloat16, as it does under every other strategy: weights, gradients, optimizer
    state, sums over ranks and the loss stay in fp32. DeepSpeed's own bf16, which keeps weights in it, is not used."""
    activation_checkpointing: Literal["none", "full"] = "none"
    """"full" keeps only what goes from unit to unit, and computes the rest of a unit again in its backward pass."""


class EngineOptions(UnitOptions, frozen=True, kw_only=True):
    """Everything that strategies may choose beyond the mesh itself; each counts where its axis is on the mesh."""

    bucket_mb: Megabytes = 25.0
    """Gradients of replicas travel in buckets of this many MiB, while the backward pass still runs (torch's default).
    Not under a pipeline: there they travel in one message after it."""
    static_graph: bool = False
    """True promises that every step uses the same parameters: DDP may then plan ahead. With accumulation it sends the
    gradients of every micro-batch, as torch's static graph does not get on with leaving some out."""
    compression: CompressionName = "none"
    """How gradients of replicas travel: "fp16" and "bf16" as numbers of half the size, "powersgd" as two thin matrices
    for each large one, from the third step on (Vogels et al. 2019, arXiv:1905.13727). Each changes what is learnt."""
    powersgd_rank: Rank = 1
    """Columns of those thin matrices."""
    reshard_after_forward: bool | None = None
    """True gives the weights of a sharded unit back after its forward pass and gathers them again for the backward
    pass; False keeps them in between (as ZeRO-2 does). Not given: True wherever that is right."""
    cpu_offload: bool = False
    """Keep shards and optimizer state in the memory of the host."""
    sequence_parallel: bool = False
    """Between the matrices of a tensor-parallel block, every rank keeps its slice of the sequence only."""
    loss_parallel: bool = False
    """With tensor parallelism, leave the logits spread over the ranks: nobody holds all classes of a token."""
    async_tp: bool = False
    """With sequence_parallel and compile, on GPUs that see each other's memory: what travels between the ranks of tp is
    cut into pieces, and travels while they are multiplied (torch's micro-pipelined tensor parallelism)."""
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
