"""Run places of the parity matrix in pools of ranks, and judge them beside one process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import matrix
import msgspec
import numpy as np
from matrix import Cell, Job
from matrix_cases import Trained

ROOT = Path(__file__).resolve().parents[2]
_OWN = ("cases.py", "deepspeed_cases.py", "matrix.py", "matrix_cases.py")


class Verdict(NamedTuple):
    """How far a cell is from one process."""

    first: float
    """Of the first loss, relative."""
    losses: float
    """The largest of all steps."""
    weights: float
    """The largest of all weights after the last step."""
    equal: bool = False
    """Losses and weights are those of one process with the same micro-batches, bit by bit."""
    problem: str = ""
    """What could not be compared, in words."""

    @property
    def agrees(self) -> bool:
        """Say whether all three are within their bounds (not a number is not)."""
        within = self.first <= matrix.FIRST_LOSS and self.losses <= matrix.LOSSES and self.weights <= matrix.WEIGHTS
        return within and not self.problem


class Curve(NamedTuple):
    """What a run computed: the loss of every step and the final weights by name."""

    losses: list[float]
    weights: dict[str, Any]


class Prover:
    """Runs cells; keeps what one process computed, as many cells are compared with the same.

    Args:
        pools: a function from a number of ranks to a pool.
    """

    def __init__(self, pools: Any) -> None:
        self._pools = pools
        self._kept: dict[str, Curve] = {}

    def verdict(self, cell: Cell, *, plant: bool = False, steps: int = matrix.STEPS) -> Verdict:
        """Train a cell and compare every rank's weights, and the losses, with one process.

        Args:
            cell: one that is not refused.
            plant: have one rank's optimizer use a wrong gradient. What differs from one process by its own rule is then
                compared with itself without the plant.
            steps: how long.
        """
        reference = self._alone(cell.reference, steps, cell.ranks)
        twin = self._alone(cell.twin, steps, cell.ranks)
        try:
            ranks = self._train(cell, steps, cell.row.plant_on if plant else None)
            if plant and cell.differs:
                itself = self._train(cell, steps, None)
                reference = Curve(reduced(itself), dict(_final(cell, itself)))
        except AssertionError as error:
            return Verdict(np.inf, np.inf, np.inf, problem=str(error).strip().splitlines()[-1])
        return _compare(cell, ranks, reference, twin)

    def _train(self, cell: Cell, steps: int, plant_on: int | None) -> list[Trained]:
        pool = self._pools(cell.ranks if cell.row.own_world else max(2, cell.ranks))
        answers = pool.run("matrix_cases.prove", job=cell.job, steps=steps, plant_on=plant_on)
        return [answer for answer in answers if answer is not None]

    def _alone(self, job: Job, steps: int, ranks: int) -> Curve:
        key = f"{steps} {job}"
        if key not in self._kept:
            trained = self._pools(max(2, ranks)).run("matrix_cases.prove", job=job, steps=steps)[0]
            self._kept[key] = Curve(reduced([trained]), trained.weights)
        return self._kept[key]


def _compare(cell: Cell, ranks: list[Trained], reference: Curve, twin: Curve) -> Verdict:
    losses, final = reduced(ranks), _final(cell, ranks)
    shapes = {(name, value.shape) for name, value in final}
    if shapes != {(name, value.shape) for name, value in reference.weights.items()}:
        return Verdict(np.inf, np.inf, np.inf, problem="the ranks do not have the parameters of the model")
    apart = np.abs(np.subtract(losses, reference.losses))
    # np.max hands on what is not a number, which no bound lets pass.
    far = np.max([np.abs(value - reference.weights[name]).max() for name, value in final])
    equal = losses == twin.losses and all(np.array_equal(value, twin.weights[name]) for name, value in final)
    return Verdict(float(apart[0] / abs(reference.losses[0])), float(apart.max()), float(far), equal)


def _final(cell: Cell, ranks: list[Trained]) -> list[tuple[str, Any]]:
    """Return every rank's copy of every weight."""
    holders = range(len(ranks)) if cell.row.weights_on is None else cell.row.weights_on
    return [item for rank in holders for item in ranks[rank].weights.items()]


def reduced(ranks: list[Trained]) -> list[float]:
    """Do what the collector of the steps does: sum(loss_sum) / sum(weight) over the ranks."""
    steps = zip(*(rank.losses for rank in ranks), strict=True)
    return [sum(loss for loss, _ in step) / sum(weight for _, weight in step) for step in steps]


def text_of(cell: Cell, verdict: Verdict) -> str:
    """Return what stands in a cell of the table that was run."""
    if verdict.problem:
        return f"FAIL: {verdict.problem}"
    if cell.differs:
        return "FAIL: agrees" if verdict.agrees else f"by rule {max(verdict.losses, verdict.weights):.0e}"
    if verdict.agrees:
        return "equal" if verdict.equal else "pass"
    return f"FAIL {worst(verdict)}"


def worst(verdict: Verdict) -> str:
    """Return what is not within its bound."""
    if verdict.problem:
        return verdict.problem
    bounds = {"first loss": matrix.FIRST_LOSS, "loss": matrix.LOSSES, "weights": matrix.WEIGHTS}
    return ", ".join(
        f"{name} {v:.0e}" for (name, bound), v in zip(bounds.items(), verdict, strict=False) if not v <= bound
    )


_NOT_TRAINING = {"analysis", "cli", "control"}
"""Wings that no rank imports. What control plans is in the key of a verdict."""


def digest_of_code() -> str:
    """Return a digest of all that a verdict depends on: kept verdicts of other code are not used."""
    import torch

    digest = hashlib.sha256(torch.__version__.encode())
    package = ROOT / "hpcpar"
    trained_by = (path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in _NOT_TRAINING)
    for path in sorted([*trained_by, *map((ROOT / "tests" / "parallel").joinpath, _OWN)]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def key_of(cell: Cell, plant: bool) -> str:
    """Return what a verdict is kept under."""
    assert cell.job is not None
    text = msgspec.json.encode([str(cell.row), cell.job.identity, cell.job.padded, plant])
    return hashlib.sha256(text).hexdigest()[:16]
