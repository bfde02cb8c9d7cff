"""Runs made by hand and started as the local cluster does: spec.json, a payload, and the launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from submitit.core.utils import DelayedSubmission

from hpcpar import registry
from hpcpar.records import Event, append
from hpcpar.registry import World
from hpcpar.runs import RunFolder
from hpcpar.spec import Identity, RunSpec, Submission

ATTEMPT = "job7_2.0"
PATIENCE_S = 100
_CHAOS = registry.STRATEGIES | {"chaos": "chaos:STRATEGY"}


def make_run(
    path: Path,
    strategy: str,
    strategy_options: dict[str, Any] | None = None,
    workload: str = "mlp",
    workload_options: dict[str, Any] | None = None,
    nodes: int = 1,
    ranks_per_node: int = 2,
    steps: int = 40,
    global_batch: int = 64,
    time_s: float = 200.0,
    grad_accum: int = 1,
    **spec: Any,
) -> RunFolder:
    spread = registry.load(_CHAOS[strategy])
    work = registry.get_workload(workload)
    options = msgspec.convert(strategy_options or {}, spread.Options)
    mesh = spread.layout(World(nodes, ranks_per_node), options)
    identity = Identity(
        cluster="local",
        node_type="any",
        workload=workload,
        workload_options=msgspec.to_builtins(msgspec.convert(workload_options or {}, work.Options)),
        strategy=strategy,
        strategy_options=msgspec.to_builtins(options),
        mesh=mesh,
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        cpus_per_rank=1,
        micro_batch=global_batch // mesh.data_ranks // grad_accum,
        grad_accum=grad_accum,
        global_batch=global_batch,
        steps=steps,
        seed=0,
        repeat=1,
    )
    folder = RunFolder(path)
    whole = RunSpec(
        key=identity.key(), study="study", identity=identity, scaling="strong", warmup_steps=5, time_s=time_s, **spec
    )
    folder.write_spec(whole)
    append(folder.submission_path, Submission(time=0.0, batch="b", scheduler="local", job_id="job7_2"))
    DelayedSubmission(registry.load(registry.WORKER_ENTRY)).dump(path / "payload.pkl")
    return folder


def worker_command(folder: RunFolder) -> list[str]:
    return [sys.executable, "-m", "hpcpar.worker", str(folder.path / "payload.pkl"), str(folder.path)]


def start(
    folder: RunFolder, command: list[str] | None = None, time_limit: float = 90, **variables: str
) -> subprocess.Popen[bytes]:
    """Start the launcher for a run, as its job script does."""
    spec = folder.spec()
    assert spec is not None
    plugin = folder.path / "site"
    _install_chaos(plugin)
    environment = {
        **os.environ,
        "HPCPAR_ATTEMPT": ATTEMPT,
        "HPCPAR_CPUS_PER_RANK": "1",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(plugin), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        ),
        **variables,
    }
    driver = registry.load(_CHAOS[spec.identity.strategy])
    nodes, ranks = (1, 1) if getattr(driver, "drives", False) else (spec.identity.nodes, spec.identity.ranks_per_node)
    size = ["--nodes", str(nodes), "--ranks-per-node", str(ranks)]
    limits = ["--time-limit", str(time_limit), "--logs", str(folder.logs)]
    launcher = [
        sys.executable,
        "-m",
        "hpcpar.worker.launch",
        *size,
        *limits,
        "--",
        *(command or worker_command(folder)),
    ]
    return subprocess.Popen(launcher, env=environment, stderr=subprocess.DEVNULL)


def finish(folder: RunFolder, process: subprocess.Popen[bytes], attempt: str = ATTEMPT) -> int:
    """Wait for the launcher and write the job script's last word."""
    try:
        code = process.wait(PATIENCE_S)
    finally:
        process.kill()
    append(folder.events_path(attempt), Event(time=2e9, kind="script_exit", data={"code": code}))
    return code


def logs(folder: RunFolder, rank: int, attempt: str = ATTEMPT) -> str:
    return (folder.logs / f"{attempt}.{rank}.log").read_text()


def _install_chaos(site: Path) -> None:
    info = site / "hpcpar_chaos-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hpcpar-chaos\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hpcpar.strategies]\nchaos = chaos:STRATEGY\n")
