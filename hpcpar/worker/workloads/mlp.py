"""mlp: a small multilayer perceptron on real handwritten digits, or a table; the cheapest workload that learns."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from hpcpar.errors import Problem
from hpcpar.registry import Declaration, TensorPlan
from hpcpar.worker.data.class_table import RowOptions, check
from hpcpar.worker.workloads.optimizer import OptimizerOptions, make_optimizer

Size = Annotated[int, Meta(ge=1)]


class MlpOptions(OptimizerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the network and how it learns."""

    data: RowOptions = RowOptions()
    """Which rows."""
    hidden: Size = 128
    """Width of the hidden layers."""
    layers: Annotated[int, Meta(ge=1, le=1000)] = 7
    """Hidden layers; with the output layer the model has one unit more."""
    lr: Annotated[float, Meta(gt=0)] = 1e-3
    """Learning rate, constant over the run."""


class Mlp:
    """Digits or rows in, their classes out."""

    name = "mlp"
    summary = "a multilayer perceptron on 1438 real handwritten digits"
    extras = ("torch",)
    Options = MlpOptions

    def declare(self, options: MlpOptions) -> Declaration:
        """Describe the work."""
        return Declaration(
            kind="neural",
            num_units=options.layers + 1,
            tensor=TensorPlan(divides=options.hidden),
            global_batch=256,
            steps=200,
        )

    def check(self, options: MlpOptions) -> list[Problem]:
        """Say what is wrong with the user's table; the digits come with the extra, which the gate looks for."""
        return check(options.data, f"workload {self.name}")

    def load(self, options: MlpOptions, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.data import class_table
        from hpcpar.worker.neural import Evaluation, NeuralWorkload
        from hpcpar.worker.workloads import mlp_model, score

        training, evaluation = class_table.read(options.data)
        inputs = training.inputs_N.shape[1]
        return NeuralWorkload(
            declared=self.declare(options),
            units=mlp_model.units(options.hidden, options.layers, inputs, options.data.classes),
            initialise=mlp_model.initialise,
            loss=mlp_model.loss,
            weigh=len,
            sample_weight=1.0,
            samples=training,
            optimizer=partial(make_optimizer, options),
            seed=seed,
            max_grad_norm=options.max_grad_norm,
            nonfinite=options.nonfinite,
            evaluation=Evaluation(samples=evaluation, metric="accuracy", score=score.correct),
        )


WORKLOAD = Mlp()
