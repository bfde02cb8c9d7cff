"""nbow: a neural bag of words that tells which package a piece of source code comes from."""

from __future__ import annotations

from functools import partial
from math import gcd
from typing import Annotated, Any

from msgspec import Meta

from hpcpar.errors import Problem
from hpcpar.registry import Declaration, TensorPlan
from hpcpar.worker.data.words import WordOptions, check, read
from hpcpar.worker.workloads.optimizer import OptimizerOptions, make_optimizer

Size = Annotated[int, Meta(ge=1)]


class NbowOptions(OptimizerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the network, its text, and how it learns."""

    data: WordOptions = WordOptions()
    """Which text."""
    dim: Size = 64
    """Width of a word."""
    hidden: Size = 64
    """Width of the hidden layer."""
    lr: Annotated[float, Meta(gt=0)] = 3e-3
    """Learning rate, constant over the run."""


class Nbow:
    """Words in, the class of their text out: the mean of the words' vectors, and a small network on it."""

    name = "nbow"
    summary = "a neural bag of words: from which package of Python's standard library is this piece of source?"
    extras = ("torch",)
    Options = NbowOptions

    def declare(self, options: NbowOptions) -> Declaration:
        """Describe the work."""
        return Declaration(
            kind="neural",
            num_units=3,
            tensor=TensorPlan(divides=gcd(options.data.vocabulary, options.hidden)),
            global_batch=128,
            steps=150,
        )

    def check(self, options: NbowOptions) -> list[Problem]:
        """Say what is wrong with the user's text."""
        return check(options.data, f"workload {self.name}")

    def load(self, options: NbowOptions, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.neural import Evaluation, NeuralWorkload
        from hpcpar.worker.workloads import nbow_model, score

        training, evaluation = read(options.data)
        return NeuralWorkload(
            declared=self.declare(options),
            units=nbow_model.units(options.data.vocabulary, options.dim, options.hidden, options.data.classes),
            initialise=nbow_model.initialise,
            loss=nbow_model.loss,
            weigh=len,
            sample_weight=1.0,
            samples=training,
            optimizer=partial(make_optimizer, options),
            seed=seed,
            max_grad_norm=options.max_grad_norm,
            nonfinite=options.nonfinite,
            evaluation=Evaluation(samples=evaluation, metric="accuracy", score=score.correct),
        )


WORKLOAD = Nbow()
