"""A run's spec for the tests of the worker's parts."""

from __future__ import annotations

from typing import Any

from hpcpar.mesh import Mesh
from hpcpar.spec import Identity, RunSpec
from hpcpar.worker.rank import RankInfo


def make_spec() -> RunSpec:
    identity = Identity(
        cluster="local",
        node_type="any",
        workload="mlp",
        workload_options={},
        strategy="ddp",
        strategy_options={},
        mesh=Mesh(dp_replicate=2),
        nodes=2,
        ranks_per_node=1,
        cpus_per_rank=1,
        micro_batch=8,
        grad_accum=1,
        global_batch=16,
        steps=10,
        seed=0,
        repeat=1,
    )
    return RunSpec(key="k", study="s", identity=identity, scaling="strong", warmup_steps=1, time_s=60.0)


def make_info(**changes: Any) -> RankInfo:
    facts = {
        "rank": 0,
        "local_rank": 0,
        "node_rank": 0,
        "nodes": 1,
        "world_size": 2,
        "hostnames": ("h",),
        "attempt": "5.0",
        "job_id": "5",
        "cpus_asked": 1,
        "scheduler": "slurm",
        "node_name": "h",
    }
    return RankInfo(**{**facts, **changes})
