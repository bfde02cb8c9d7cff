"""llama-tiny: a small Llama (RMSNorm, RoPE, grouped-query attention, SwiGLU) that reads bytes."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from hpcpar.errors import Problem
from hpcpar.registry import Declaration, TensorPlan
from hpcpar.worker.data.text import DataOptions, TextWindows, check
from hpcpar.worker.workloads.optimizer import OptimizerOptions, make_optimizer

Size = Annotated[int, Meta(ge=1)]
VOCABULARY = 256
"""Bytes."""


class LlamaOptions(OptimizerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the model, its text, and how it learns."""

    data: DataOptions = DataOptions()
    """Which text it reads."""
    sequence: Annotated[int, Meta(ge=2, le=1_000_000)] = 32
    """Tokens (bytes) a sample."""
    dim: Size = 128
    """Width of the model; a multiple of 2 x heads."""
    layers: Annotated[int, Meta(ge=1, le=1000)] = 8
    """Blocks; with the embedding and the output the model has two units more."""
    heads: Size = 4
    """Attention heads."""
    kv_heads: Size = 2
    """Heads of keys and values; heads is a multiple of it."""
    hidden: Size = 256
    """Width inside SwiGLU."""
    rope_theta: Annotated[float, Meta(gt=0)] = 10_000.0
    """Base of the rotary frequencies (Su et al. 2021)."""
    lr: Annotated[float, Meta(gt=0)] = 2e-3
    """Learning rate, constant over the run."""

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim {self.dim} is not a multiple of 2 x heads ({self.heads}): rotary pairs need even heads"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")


class LlamaTiny:
    """Text in, the next byte out."""

    name = "llama-tiny"
    summary = "a Llama of 1.2 million parameters on the sources of Python's standard library, byte by byte"
    extras = ("torch",)
    Options = LlamaOptions

    def declare(self, options: LlamaOptions) -> Declaration:
        """Describe the work."""
        return Declaration(
            kind="neural",
            tokens_per_sample=options.sequence,
            num_units=options.layers + 2,
            sequence=options.sequence,
            context_parallel=True,
            tensor=TensorPlan(
                divides=math.gcd(options.heads, options.kv_heads, options.hidden, VOCABULARY), loss_parallel=True
            ),
            global_batch=32,
            steps=60,
        )

    def check(self, options: LlamaOptions) -> list[Problem]:
        """Say whether the text is not there."""
        return check(options.data, f"workload {self.name}")

    def load(self, options: LlamaOptions, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.neural import NeuralWorkload
        from hpcpar.worker.workloads import llama_model

        shape = llama_model.Shape(**{f: getattr(options, f) for f in llama_model.Shape._fields})
        return NeuralWorkload(
            declared=self.declare(options),
            units=llama_model.units(shape, VOCABULARY, options.layers),
            initialise=partial(llama_model.initialise, layers=options.layers),
            loss=llama_model.loss,
            weigh=llama_model.weigh,
            sample_weight=float(options.sequence),
            samples=TextWindows(options.data, options.sequence),
            optimizer=partial(make_optimizer, options),
            seed=seed,
            max_grad_norm=options.max_grad_norm,
        )


TINY = LlamaTiny()
