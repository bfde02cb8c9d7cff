"""llama-lora: low-rank adapters on a frozen Llama."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hpcpar.errors import Problem
from hpcpar.registry import Declaration, TensorPlan
from hpcpar.worker.data import text
from hpcpar.worker.workloads.llama import LlamaOptions, Preset, Size, declaration, workload

_DEFAULTS = Preset("", {}, global_batch=32, steps=60)


class LoraOptions(LlamaOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the frozen model and of its adapters, its text, and how they learn."""

    lr: Annotated[float, Meta(gt=0)] = 5e-3
    """Learning rate, constant over the run."""
    rank: Size = 8
    """Rank r of an adapter."""
    alpha: Annotated[float, Meta(gt=0)] = 16.0
    """An adapter's output counts alpha / r times."""
    adapt: Literal["all", "attention"] = "all"
    """Which linear layers of a block have an adapter: all seven, or the four of the attention."""


class LlamaLora:
    """Text in, the next byte out; only adapters are trained."""

    name = "llama-lora"
    summary = "LoRA on a frozen Llama that reads bytes: 0.2 of 1.5 million parameters are trained"
    extras = ("torch",)
    Options = LoraOptions

    def declare(self, options: LoraOptions) -> Declaration:
        """Describe the work. An adapter's small matrices need whole sequences."""
        dense = declaration(options, options.hidden, _DEFAULTS)
        assert dense.tensor is not None
        return msgspec.structs.replace(
            dense,
            kind="adapters",
            num_units=options.layers,
            tensor=TensorPlan(divides=dense.tensor.divides, loss_parallel=True, sequence_parallel=False),
        )

    def check(self, options: LoraOptions) -> list[Problem]:
        """Say whether the text is not there."""
        return text.check(options.data, f"workload {self.name}")

    def load(self, options: LoraOptions, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.workloads import llama_model, lora_model

        shape = llama_model.Shape(**{f: getattr(options, f) for f in llama_model.Shape._fields})
        layers = lora_model.ATTENTION + (lora_model.FEED_FORWARD if options.adapt == "all" else ())
        adapters = lora_model.Adapters(options.rank, options.alpha, layers)
        units = lora_model.units(shape, options.vocabulary, options.layers, adapters)
        loaded = workload(self.declare(options), units, options, seed)
        return msgspec.structs.replace(loaded, initialise=partial(lora_model.initialise, layers=options.layers))


WORKLOAD = LlamaLora()
