"""A few of the faults of `make faults`, so that the tests see when one of them stops holding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faults
import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(2400)]

CHOSEN = ("kill -9 of a rank", "scontrol requeue", "kill -9 of slurmctld")


@pytest.fixture(scope="module")
def undisturbed(slurm_session: Any, tmp_path_factory: pytest.TempPathFactory) -> list[float | None]:
    """The losses of runs that nobody touched."""
    place = tmp_path_factory.mktemp("none")
    none = faults.disturb(slurm_session, place, faults.FAULTS[0], None)
    assert none.holds, none
    specs = sorted((place / "runs").glob("*/*/spec.json"))
    losses = [[step.loss for step in faults.kept(faults.RunFolder(spec.parent))] for spec in specs]
    assert losses == [losses[0]] * faults.REPEATS
    return losses[0]


@pytest.mark.parametrize("name", CHOSEN)
def test_every_run_comes_through_once_with_the_losses_of_an_undisturbed_one(
    slurm: Any, tmp_path: Path, undisturbed: list[float | None], name: str
) -> None:
    (fault,) = [one for one in faults.FAULTS if one.name == name]
    verdict = faults.disturb(slurm, tmp_path / "disturbed", fault, undisturbed)
    assert verdict.holds, verdict
    assert verdict.injected == faults.REPEATS
    if not fault.shared:  # a controller that is killed may or may not cost an attempt
        assert sum(verdict.went_on.values()) >= faults.REPEATS, verdict
