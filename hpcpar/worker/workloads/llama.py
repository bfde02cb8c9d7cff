"""llama: RMSNorm, RoPE, grouped-query attention, SwiGLU; one definition, and the published shapes as presets.

Tokens are bytes unless the data bring a tokenizer: where a published vocabulary is larger, its other rows are there
for their memory and their arithmetic, and no text reaches them. Input and output embedding are always two matrices.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple, cast

import msgspec
from msgspec import Meta

from hpcpar.errors import Problem
from hpcpar.registry import Declaration, TensorPlan
from hpcpar.worker.data import text
from hpcpar.worker.data.text import DataOptions
from hpcpar.worker.workloads.optimizer import OptimizerOptions, make_optimizer

Size = Annotated[int, Meta(ge=1)]


class LlamaOptions(OptimizerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the model, its text, and how it learns."""

    data: DataOptions = DataOptions()
    """Which text it reads."""
    sequence: Annotated[int, Meta(ge=2, le=1_000_000)] = 32
    """Tokens a sample."""
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
    vocabulary: Annotated[int, Meta(ge=256, le=10_000_000)] = 256
    """Rows of the embeddings; 256 are enough where tokens are bytes."""
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


class Preset(NamedTuple):
    """A published shape."""

    about: str
    shape: dict[str, Any]
    """Defaults of the options that differ from those of `LlamaOptions`."""
    global_batch: int = 32
    steps: int = 100


PRESETS = {
    "llama-tiny": Preset("1.2 million parameters, made for a laptop", {}, steps=60),
    # stories15M of github.com/karpathy/llama2.c: README ("models") and train.py. It counts its one embedding once.
    "llama-15m": Preset(
        "24 million parameters, 15 of them without the output embedding (shape of llama2.c's stories15M)",
        {"dim": 288, "layers": 6, "heads": 6, "kv_heads": 6, "hidden": 768, "vocabulary": 32_000, "sequence": 256,
         "lr": 5e-4},
    ),
    # huggingface.co/JackFram/llama-160m, config.json. Its rate is not published: that of Llama 2 7B.
    "llama-160m": Preset(
        "162 million parameters (shape of JackFram/llama-160m)",
        {"dim": 768, "layers": 12, "heads": 12, "kv_heads": 12, "hidden": 3072, "vocabulary": 32_000, "sequence": 2048,
         "lr": 3e-4},
    ),
    # TinyLlama 1.1B: Zhang et al. 2024 (arXiv:2401.02385), table 1 and section 2.3. Llama 2's architecture.
    "llama-1b": Preset(
        "1.1 billion parameters (shape of TinyLlama 1.1B)",
        {"dim": 2048, "layers": 22, "heads": 32, "kv_heads": 4, "hidden": 5632, "vocabulary": 32_000, "sequence": 2048,
         "lr": 4e-4},
    ),
    # Llama 2 7B: Touvron et al. 2023 (arXiv:2307.09288), table 1 and section 2.2; huggingface.co/meta-llama/Llama-2-7b.
    "llama-7b": Preset(
        "6.7 billion parameters (shape of Llama 2 7B)",
        {"dim": 4096, "layers": 32, "heads": 32, "kv_heads": 32, "hidden": 11_008, "vocabulary": 32_000,
         "sequence": 4096, "lr": 3e-4},
    ),
    # Llama 3 8B: Grattafiori et al. 2024 (arXiv:2407.21783), table 3.
    "llama-8b": Preset(
        "8.0 billion parameters (shape of Llama 3 8B)",
        {"dim": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "hidden": 14_336, "vocabulary": 128_256,
         "sequence": 8192, "rope_theta": 500_000.0, "lr": 3e-4},
    ),
}  # fmt: skip
"""Name -> shape. A preset is nothing but defaults: every one of its numbers is an option."""


class Llama:
    """Text in, the next byte out."""

    extras: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(self, name: str) -> None:
        self.name, self._preset = name, PRESETS[name]
        self.summary = f"a Llama that reads bytes: {self._preset.about}"
        self.Options = _with_defaults(self._preset.shape)

    def declare(self, options: LlamaOptions) -> Declaration:
        """Describe the work."""
        return declaration(options, options.hidden, self._preset)

    def check(self, options: LlamaOptions) -> list[Problem]:
        """Say whether the text is not there."""
        return text.check(options.data, f"workload {self.name}", options.vocabulary)

    def load(self, options: LlamaOptions, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.workloads import llama_model

        shape = llama_model.shape_of(options)
        units = llama_model.units(shape, options.vocabulary, options.layers)
        return workload(self.declare(options), units, options, seed)


def declaration(options: LlamaOptions, widths: int, preset: Preset) -> Declaration:
    """Describe a Llama whose matrices can be split over tp where tp divides heads, `widths` and vocabulary."""
    divides = math.gcd(options.heads, options.kv_heads, widths, options.vocabulary)
    return Declaration(
        kind="neural",
        tokens_per_sample=options.sequence,
        num_units=options.layers + 2,
        sequence=options.sequence,
        context_parallel=True,
        tensor=TensorPlan(divides=divides, loss_parallel=True),
        global_batch=preset.global_batch,
        steps=preset.steps,
    )


def workload(
    declared: Declaration, units: Any, options: LlamaOptions, seed: int, tokens: text.Tokens = text.BYTES
) -> Any:
    """Put a Llama's units together with its text, its loss and its optimizer (job)."""
    from hpcpar.worker.neural import Evaluation, NeuralWorkload
    from hpcpar.worker.workloads import llama_model, score
    from hpcpar.worker.workloads.flops import Attended, of_sample

    experts = declared.experts
    chosen = experts.chosen / experts.number if experts is not None else 1.0
    training, held = text.read(options.data, options.sequence, options.vocabulary, tokens)
    evaluation = Evaluation(samples=held, metric="accuracy", score=score.correct_tokens) if len(held) else None
    return NeuralWorkload(
        declared=declared,
        units=units,
        initialise=partial(llama_model.initialise, layers=options.layers),
        loss=llama_model.loss,
        weigh=llama_model.weigh,
        sample_weight=float(options.sequence),
        samples=training,
        optimizer=partial(make_optimizer, options),
        seed=seed,
        max_grad_norm=options.max_grad_norm,
        nonfinite=options.nonfinite,
        evaluation=evaluation,
        model_flops=of_sample(units, Attended(options.layers, options.dim, options.sequence), chosen),
    )


def _with_defaults(shape: dict[str, Any]) -> type[LlamaOptions]:
    """Return the options of a preset: the same fields, other defaults."""
    types = {field.name: field.type for field in msgspec.structs.fields(LlamaOptions)}
    fields = [(key, types[key], value) for key, value in shape.items()]
    flags: dict[str, Any] = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}
    made = msgspec.defstruct("LlamaOptions", fields, bases=(LlamaOptions,), module=__name__, **flags)
    return cast("type[LlamaOptions]", made)


TINY, M15, M160, B1, B7, B8 = (Llama(name) for name in PRESETS)
