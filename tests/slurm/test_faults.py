"""A few of the faults of `make faults`, so that the tests see when one of them stops holding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faults
import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.timeout(2400)]

CHOSEN = ("kill -9 of a rank", "scontrol requeue", "kill -9 of slurmctld")


@pytest.mark.parametrize("name", CHOSEN)
def test_every_run_comes_through_once_with_the_losses_of_an_undisturbed_one(
    slurm: Any, tmp_path: Path, name: str
) -> None:
    none = faults.disturb(slurm, tmp_path / "none", faults.FAULTS[0], None)
    assert none.holds, none
    spec = next((tmp_path / "none" / "runs").glob("*/*/spec.json"))
    undisturbed = [step.loss for step in faults.kept(faults.RunFolder(spec.parent))]
    (fault,) = [one for one in faults.FAULTS if one.name == name]
    verdict = faults.disturb(slurm, tmp_path / "disturbed", fault, undisturbed)
    assert verdict.holds, verdict
    assert verdict.injected == faults.REPEATS
    assert bool(verdict.went_on) == bool(fault.causes or fault.requeued), verdict
