"""What finished runs say: of which ranks, and nothing where their folder holds what cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from records_oracle import Oracle, Truth

from hpcpar import assets
from hpcpar.control.forecast.clock import cpu_rates, first_clock
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
    cpus: int = 1
    changed: dict[str, Any] = field(default_factory=dict)

    def spec(self, strategy: str, nodes: int, repeat: int) -> RunSpec:
        spec = super().spec(strategy, nodes, repeat)
        identity = msgspec.structs.replace(spec.identity, cpus_per_rank=self.cpus)
        noted = {"schema": SCHEMA, "work": {**msgspec.to_builtins(WORK), **self.changed}}
        return msgspec.structs.replace(spec, key=identity.key(), identity=identity, prediction=noted)


@pytest.fixture
def profile() -> ClusterProfile:
    path = assets.find("clusters", "slurm-test")
    return msgspec.structs.replace(decode(ClusterProfile, read_toml(path), str(path)), name="testbed")


def past(folder: Path, profile: ClusterProfile, **more: Any) -> Past:
    runs = Predicted(**more).write(folder)
    return look_back([StudyFolder(runs[0].path.parent)], profile, "cpu", trace=False)


def test_on_cpus_only_ranks_with_as_many_say_how_fast_one_is(tmp_path: Path, profile: ClusterProfile) -> None:
    found = past(tmp_path, profile, cpus=4)
    assert found.seen.keys() == {"fp32 on 4 CPUs"}
    first = first_clock(cpu_rates(1))
    assert found.calibrate(first, "fp32 on 1 CPUs") is first
    assert found.calibrate(first, "fp32 on 4 CPUs").runs == 3
    assert found.start_s is not None


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
