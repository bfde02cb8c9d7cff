"""A workload of one's own: a straight line through noisy points, cut into two units.

    hpcpar submit --cluster local --workload examples/own_workload.py:LINE --strategy ddp pp --nodes 1 2

The top of the file is read on the login node, in a child process: torch is imported in `load` and below it only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from hpcpar.registry import Declaration
from hpcpar.worker.workloads.optimizer import OptimizerOptions, make_optimizer


class LineOptions(OptimizerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How it learns, and its size."""

    inputs: int = 8


class Line:
    """Numbers in, one number out."""

    name = "line"
    summary = "a straight line, as an example"
    extras = ("torch",)
    Options = LineOptions

    def declare(self, options: LineOptions) -> Declaration:
        """Describe the work."""
        return Declaration(kind="neural", num_units=2, global_batch=64, steps=100)

    def check(self, options: LineOptions) -> list[Any]:
        """Find nothing wrong: the points are made up."""
        return []

    def load(self, options: LineOptions, seed: int) -> Any:
        """Build it (job)."""
        from torch import nn
        from torch.nn import functional as F

        from hpcpar.worker.neural import NeuralWorkload, Unit

        return NeuralWorkload(
            declared=self.declare(options),
            units=(
                Unit("inner", partial(nn.Linear, options.inputs, 4)),
                Unit("outer", partial(nn.Linear, 4, 1)),
            ),
            initialise=lambda name, values, generator: values.normal_(0.0, 0.5, generator=generator),
            loss=lambda output, targets: (F.mse_loss(output, targets, reduction="sum"), float(len(targets))),
            weigh=len,
            sample_weight=1.0,
            samples=Points(options.inputs),
            optimizer=partial(make_optimizer, options),
            seed=seed,
        )


class Points:
    """A thousand points, the same on every rank. Made up, and marked so."""

    def __init__(self, inputs: int) -> None:
        import torch

        numbers = torch.Generator().manual_seed(1)
        self._inputs = torch.randn(1000, inputs, generator=numbers)
        self._targets = self._inputs.sum(1, keepdim=True)

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self._inputs)

    def fetch(self, ids_B: Any) -> tuple[Any, Any]:
        """Return the points of these numbers and their targets."""
        return self._inputs[ids_B], self._targets[ids_B]

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""
        return {"name": "points", "num_samples": len(self), "synthetic": True}


LINE = Line()
