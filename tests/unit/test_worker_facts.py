"""What a rank finds where it runs, on machines that are written down as files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from worker_spec import make_info, make_spec

from hpcpar.errors import RunError
from hpcpar.records import RankFacts
from hpcpar.spec import RunSpec
from hpcpar.worker import addresses
from hpcpar.worker.facts import Quota, RankReport, cpu_quota, oversubscribed, shortage_notes
from hpcpar.worker.rank import RankInfo, rank_info


@pytest.fixture
def spec() -> RunSpec:
    return make_spec()


def _files(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    [
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n", "job/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/job/step\n", {"job/step/cpu.max": "400000 100000\n", "job/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/job\n", {"job/cpu.max": "max 100000\n"}, None),
        ("0::/../../host/path\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (
            "4:cpu,cpuacct:/job\n1:name=systemd:/\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            "4:cpu:/job\n",
            {"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("", {}, None),
    ],
)
def test_cpu_quota(tmp_path: Path, cgroup: str, files: dict[str, str], cpus: float | None) -> None:
    _files(tmp_path / "cgroup", files)
    (tmp_path / "self").write_text(cgroup)
    quota = cpu_quota(tmp_path / "self", tmp_path / "cgroup")
    assert (quota.cpus if quota else None) == cpus


def _report(
    number: int, cpus: tuple[int, ...], threads: int = 1, boot: str = "a", quota: Quota | None = None, asked: int = 1
) -> RankReport:
    facts = RankFacts(
        rank=number,
        host=f"n{number}",
        boot_id=boot,
        usable_cpus=len(cpus),
        cpus_asked=asked,
        threads=threads,
        device="cpu",
    )
    return RankReport(facts=facts, affinity=cpus, quota=quota)


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([_report(0, (0, 1)), _report(1, (0, 1))], False),
        ([_report(0, (0,)), _report(1, (0,))], True),
        ([_report(0, (0,)), _report(1, (1,))], False),
        ([_report(0, (0, 1), threads=2), _report(1, (0, 1), threads=1)], True),
        ([_report(0, (0,), boot="a"), _report(1, (0,), boot="b")], False),
        ([_report(i, (0, 1, 2, 3), quota=Quota(2.0, "g")) for i in range(3)], True),
        ([_report(i, (0, 1, 2, 3), quota=Quota(2.0, f"g{i}")) for i in range(3)], False),
    ],
    ids=["fits", "same cpu", "one each", "threads", "two machines", "one quota", "quotas of their own"],
)
def test_oversubscribed(reports: list[RankReport], expected: bool) -> None:
    assert oversubscribed(reports) is expected


def test_ranks_bound_to_fewer_cpus_than_asked_are_noted() -> None:
    notes = shortage_notes([_report(0, (0, 1), asked=2), _report(1, (0,), asked=2)])
    assert len(notes) == 1
    assert "rank 1 on n1 may use 1 of 2" in notes[0]
    assert shortage_notes([_report(0, (0, 1), asked=2)]) == []


def test_the_rank_of_an_array_task_under_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "1236",
        "SLURM_ARRAY_JOB_ID": "1234",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_NTASKS": "4",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NODEID": "1",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURMD_NODENAME": "n2",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
        "HPCPAR_ATTEMPT": "1234_2.1",
        "HPCPAR_CPUS_PER_RANK": "8",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    info = rank_info(1)
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    assert info == RankInfo(
        rank=3,
        local_rank=1,
        node_rank=1,
        nodes=2,
        world_size=4,
        hostnames=("n1", "n2"),
        attempt="1234_2.1",
        job_id="1234_2",
        cpus_asked=8,
        scheduler="slurm",
        node_name="n2",
        launch_address="10.0.0.1",
    )


def test_a_worker_that_nobody_started_says_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUBMITIT_EXECUTOR", "SLURM_PROCID", "SUBMITIT_DEBUG_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RunError, match=r"srun in a Slurm job, or with python -m hpcpar\.worker\.launch"):
        rank_info(1)


def _info(**changes: object) -> RankInfo:
    usual = {"nodes": 2, "hostnames": ("n1", "n2"), "node_name": "n1", "launch_address": "10.0.0.9"}
    return make_info(**{**usual, **changes})


NAMES = {"n1": ["127.0.0.1"], "n1i": ["10.1.0.1"], "10.0.0.9": ["10.0.0.9"], "127.0.0.1": ["127.0.0.1"]}


@pytest.mark.parametrize(
    ("info", "suffix", "expected"),
    [
        (_info(nodes=1), "", ["127.0.0.1"]),
        (_info(scheduler="local"), "", ["127.0.0.1"]),
        (_info(), "i", ["10.1.0.1", "10.0.0.9", "127.0.0.1"]),
        (_info(), "", ["10.0.0.9", "127.0.0.1"]),
        (_info(launch_address="127.0.0.1"), "", ["127.0.0.1"]),
        (_info(node_name="unknown", launch_address=""), "", []),
    ],
    ids=["one node", "local", "fast network", "loopback name", "test cluster", "nothing"],
)
def test_addresses(
    monkeypatch: pytest.MonkeyPatch, spec: RunSpec, info: RankInfo, suffix: str, expected: list[str]
) -> None:
    monkeypatch.setattr(addresses, "_resolve", lambda name: NAMES.get(name, []))
    assert addresses.addresses_to_meet_at(msgspec.structs.replace(spec, host_suffix=suffix), info) == expected
