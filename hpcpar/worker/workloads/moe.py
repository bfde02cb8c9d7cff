"""llama-moe: a small Llama whose feed-forward layers are mixtures of experts."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hpcpar.errors import Problem
from hpcpar.registry import Declaration, ExpertPlan, TensorPlan
from hpcpar.worker.data import text
from hpcpar.worker.workloads.llama import LlamaOptions, Preset, Size, declaration, workload

NotNegative = Annotated[float, Meta(ge=0)]
_DEFAULTS = Preset("", {}, global_batch=32, steps=60)


class MoeOptions(LlamaOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the model, its experts, its text, and how it learns."""

    layers: Annotated[int, Meta(ge=1, le=1000)] = 4
    """Blocks, each with its own experts; with the embedding and the output the model has two units more."""
    hidden: Size = 128
    """Width inside one expert."""
    experts: Annotated[int, Meta(ge=2, le=65_536)] = 8
    """Experts a layer."""
    top_k: Size = 2
    """Experts that a token is sent to. With one, its output is multiplied by its score, else the scores are shares."""
    balance_loss: NotNegative = 0.01
    """Factor of the sequence-wise balance loss; 0: none. DeepSeek-V3 took 1e-4 (arXiv:2412.19437, section 4.2), for a
    model that learns for months and not for minutes."""
    balance_rate: NotNegative = 0.03
    """Step of the bias that every expert gets after an update; 0: none. DeepSeek-V3 took 1e-3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} is more than the {self.experts} experts")


class LlamaMoe:
    """Text in, the next byte out."""

    name = "llama-moe"
    summary = "a Llama with 8 experts a layer, 2 of them a token, that reads bytes: 1.8 million parameters"
    extras = ("torch",)
    Options = MoeOptions

    def declare(self, options: MoeOptions) -> Declaration:
        """Describe the work. Only attention and the embeddings can be split over tp."""
        dense = declaration(options, options.vocabulary, _DEFAULTS)
        assert dense.tensor is not None
        return msgspec.structs.replace(
            dense,
            kind="mixture-of-experts",
            tensor=TensorPlan(divides=dense.tensor.divides, loss_parallel=True, sequence_parallel=False),
            experts=ExpertPlan(number=options.experts, chosen=options.top_k),
        )

    def check(self, options: MoeOptions) -> list[Problem]:
        """Say whether the text is not there."""
        return text.check(options.data, f"workload {self.name}", options.vocabulary)

    def load(self, options: MoeOptions, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.workloads import llama_model, moe_model

        shape = llama_model.shape_of(options)
        mixture = moe_model.Mixture(**{f: getattr(options, f) for f in moe_model.Mixture._fields})
        units = moe_model.units(shape, mixture, options.vocabulary, options.layers)
        return workload(self.declare(options), units, options, seed)


WORKLOAD = LlamaMoe()
