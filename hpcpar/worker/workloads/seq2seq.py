"""seq2seq: an encoder and a decoder with attention that rewrite names_with_underscores as NamesInCamelCase."""

from __future__ import annotations

from functools import partial
from math import gcd
from typing import Annotated, Any

from msgspec import Meta

from hpcpar.errors import Problem
from hpcpar.registry import Declaration, TensorPlan
from hpcpar.worker.data.pairs import VOCABULARY, PairOptions, check, read
from hpcpar.worker.workloads.optimizer import OptimizerOptions, make_optimizer

Size = Annotated[int, Meta(ge=1)]


class Seq2SeqOptions(OptimizerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the model, its text, and how it learns."""

    data: PairOptions = PairOptions()
    """Which pairs of texts."""
    dim: Size = 64
    """Width of the model; a multiple of heads."""
    heads: Size = 4
    """Attention heads."""
    hidden: Size = 128
    """Width inside the feed-forward layers."""
    encoder_layers: Size = 2
    """Blocks of the encoder."""
    decoder_layers: Size = 2
    """Blocks of the decoder."""
    lr: Annotated[float, Meta(gt=0)] = 3e-3
    """Learning rate, constant over the run."""
    max_grad_norm: Annotated[float, Meta(ge=0)] = 1.0
    """The gradient is scaled down to this 2-norm where it is longer; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")


class Seq2Seq:
    """A text in, another one out."""

    name = "seq2seq"
    summary = "a Transformer encoder and decoder that rewrite real names in another style, or your pairs of texts"
    extras = ("torch",)
    Options = Seq2SeqOptions

    def declare(self, options: Seq2SeqOptions) -> Declaration:
        """Describe the work."""
        return Declaration(
            kind="neural",
            tokens_per_sample=2 * options.data.length,
            num_units=options.encoder_layers + options.decoder_layers + 2,
            tensor=TensorPlan(divides=gcd(options.heads, options.hidden, VOCABULARY)),
            global_batch=128,
            steps=400,
        )

    def check(self, options: Seq2SeqOptions) -> list[Problem]:
        """Say whether the pairs are not there."""
        return check(options.data, f"workload {self.name}")

    def load(self, options: Seq2SeqOptions, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.neural import Evaluation, NeuralWorkload
        from hpcpar.worker.workloads import score, seq2seq_model

        training, evaluation = read(options.data)
        shape = seq2seq_model.Shape(options.data.length, options.dim, options.heads, options.hidden)
        layers = options.encoder_layers + options.decoder_layers
        return NeuralWorkload(
            declared=self.declare(options),
            units=seq2seq_model.units(shape, VOCABULARY, options.encoder_layers, options.decoder_layers),
            initialise=partial(seq2seq_model.initialise, layers=layers),
            loss=seq2seq_model.loss,
            weigh=seq2seq_model.weigh,
            sample_weight=None,  # padding counts for nothing
            samples=training,
            optimizer=partial(make_optimizer, options),
            seed=seed,
            max_grad_norm=options.max_grad_norm,
            nonfinite=options.nonfinite,
            evaluation=Evaluation(samples=evaluation, metric="exact_match", score=score.exact),
        )


WORKLOAD = Seq2Seq()
