"""What finished runs say, and that it is nothing where their folder holds what cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from records_oracle import Oracle, Truth

from hpcpar import assets
from hpcpar.control.forecast.past import SCHEMA, Past, look_back
from hpcpar.control.forecast.work import Link, Work
from hpcpar.decode import decode, read_toml
from hpcpar.profile import ClusterProfile
from hpcpar.runs import StudyFolder
from hpcpar.spec import RunSpec

WORK = Work(
    flops=1e11, traffic=1e9, operators=1000, inside=Link(calls=4, wire_bytes=1e6), outside=Link(), bubble=0.0,
    bubble_known=True, useful_flops=2e11,
)  # fmt: skip


@dataclass(frozen=True)
class Predicted(Oracle):
    """Runs whose spec.json says what a step has to do; `changed` of it is something else."""

    truths: dict[str, Truth] = field(default_factory=lambda: {"ddp": Truth(0.0, 2**-8)})
    workload: str = "llama-tiny"
    changed: dict[str, Any] = field(default_factory=dict)

    def spec(self, strategy: str, nodes: int, repeat: int) -> RunSpec:
        spec = super().spec(strategy, nodes, repeat)
        noted = {"schema": SCHEMA, "work": {**msgspec.to_builtins(WORK), **self.changed}}
        return msgspec.structs.replace(spec, prediction=noted)


@pytest.fixture
def profile() -> ClusterProfile:
    path = assets.find("clusters", "slurm-test")
    return msgspec.structs.replace(decode(ClusterProfile, read_toml(path), str(path)), name="testbed")


def past(folder: Path, profile: ClusterProfile, **more: Any) -> Past:
    runs = Predicted(**more).write(folder)
    return look_back([StudyFolder(runs[0].path.parent)], profile, "cpu", trace=False)


@pytest.mark.parametrize(
    "changed",
    [
        {"bubble": 1.0},
        {"bubble": -0.5},
        {"flops": -1e11},
        {"traffic": 1e300},
        {"operators": 0},
        {"useful_flops": -1.0},
        {"sharing": 0.0},
        {"inside": {"calls": -4.0}},
    ],
    ids=str,
)
def test_work_that_cannot_be_is_not_looked_at(tmp_path: Path, profile: ClusterProfile, changed: dict[str, Any]) -> None:
    assert past(tmp_path, profile).seen
    assert not past(tmp_path / "wrong", profile, changed=changed).seen
