"""DeepSpeed's ZeRO: optimizer state, gradients and weights sharded over the ranks, stage by stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import DeepspeedOptions, engine_options
from hpcpar.registry import Trainer, World


class DeepspeedZeroOptions(DeepspeedOptions, frozen=True, kw_only=True):
    """What is sharded, and what lives in the memory of the host."""

    stage: Literal[1, 2, 3] = 2
    """1 shards the optimizer's state, 2 gradients as well, 3 weights as well."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the memory of the host, and update there."""
    offload_parameters: bool = False
    """Keep the shards of the weights in the memory of the host; stage 3 only."""
    persistence_threshold: Annotated[int, Meta(ge=0)] = 100_000
    """Under stage 3, parameters with fewer elements stay whole on every rank (DeepSpeed's default); 0 shards all."""

    def __post_init__(self) -> None:
        if self.offload_parameters and self.stage != 3:
            raise ValueError(
                f"offload_parameters needs stage 3, this is stage {self.stage}, which keeps all weights on every rank"
            )


class DeepspeedZero:
    """dp_shard takes all ranks."""

    name = "deepspeed-zero"
    summary = "DeepSpeed ZeRO 1, 2, 3: state, gradients and weights sharded over the ranks"
    kinds = frozenset({"neural"})
    extras = ("torch", "deepspeed")
    no_checkpoints = "DeepSpeed keeps the shards of optimizer and weights to itself"
    Options = DeepspeedZeroOptions

    def layout(self, world: World, options: DeepspeedZeroOptions) -> Mesh:
        """Shard over all ranks."""
        return Mesh(dp_shard=world.size)

    def build(self, context: Any, workload: Any, options: DeepspeedZeroOptions) -> Trainer:
        """Build the trainer (job)."""
        from hpcpar.worker.deepspeed_engine.zero import build

        # Pinning needs an accelerator.
        host = {"device": "cpu", "pin_memory": context.device.type != "cpu"}
        zero: dict[str, Any] = {"stage": options.stage}
        if options.stage == 3:
            zero["stage3_param_persistence_threshold"] = options.persistence_threshold
        if options.offload_optimizer:
            zero["offload_optimizer"] = host
        if options.offload_parameters:
            zero["offload_param"] = host
        return build(context, workload, engine_options(options), zero)


STRATEGY = DeepspeedZero()
