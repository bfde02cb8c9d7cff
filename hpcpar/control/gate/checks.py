"""What the doctor and the gate look at before a job is sent, as far as it can be seen without asking Slurm.

A check is a function from a Case to Findings. It says what would fail, or would be measured wrongly, and what to do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import hpcpar
from hpcpar import registry, workload_files
from hpcpar.control import slurm
from hpcpar.control.gate import network
from hpcpar.control.plan import Plan
from hpcpar.errors import MissingExtraError, NoSchedulerError, Problem, install_line
from hpcpar.profile import ClusterProfile, NodeType
from hpcpar.runs import find_studies
from hpcpar.spec import Resources, RunSpec
from hpcpar.storage import is_folder
from hpcpar.units import human_memory

Level = Literal["error", "warning", "unchecked"]
EXTRA_PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "numpy", "sklearn"),
    "deepspeed": ("deepspeed",),
    "xgboost": ("xgboost",),
    "parquet": ("pyarrow",),
    "dask": ("dask_jobqueue", "distributed", "cryptography"),
}
"""Packages by which an extra is recognised."""
_CHILD_TIMEOUT_S = 120
_LEAST_SPACE = 1024**3
_OF_ONE_MACHINE = {"tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs"}
"""File systems that a node does not share with others, unless somebody exports them."""
_VISIBILITY = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
_FEW_PORTS = 1000
_STUDIES_LOOKED_AT = 20


class Finding(NamedTuple):
    """What a check has to say."""

    level: Level
    """"error" stops a submit; "unchecked" says what could not be looked at, and why."""
    problem: Problem


class Shot(NamedTuple):
    """One script that would be sent."""

    text: str
    template: str
    num_runs: int
    resources: Resources
    node_type: NodeType


class Case(NamedTuple):
    """All that would be submitted."""

    plan: Plan
    profile: ClusterProfile
    python: str
    """The interpreter on the nodes."""
    shots: tuple[Shot, ...] = ()
    root: Path | None = None
    """The runs folder."""

    @property
    def where(self) -> str:
        """How messages call the cluster."""
        return f"cluster {self.profile.name}"


def account(case: Case) -> Iterator[Finding]:
    """Yield a missing account: the queue would refuse it."""
    for problem in case.plan.warnings:
        if problem.where.startswith("cluster "):
            yield Finding("error", problem)


def scheduler(case: Case) -> Iterator[Finding]:
    """Yield missing commands of the scheduler."""
    if case.profile.scheduler == "slurm":
        for command in ("sbatch", "srun", "squeue"):
            if not slurm.have(command):
                yield from (Finding("error", problem) for problem in NoSchedulerError(command).problems)
                return


# ---------------------------------------------------------------- the environment


def environment(case: Case) -> Iterator[Finding]:
    """Yield packages that the nodes' interpreter lacks, tried with the interpreter that the job will use."""
    specs = [run.spec for run in case.plan.runs]
    strategies = {spec.identity.strategy for spec in specs}
    workloads = {spec.identity.workload for spec in specs if not spec.workload_file}
    extras = {extra for name in strategies for extra in registry.get_strategy(name).extras}
    extras |= {extra for name in workloads for extra in registry.get_workload(name).extras}
    extras |= {extra for spec in specs if spec.workload_file for extra in _extras_of_file(spec)}
    yield from _package_findings(sorted(extras), case)
    archive = case.profile.environment.archive
    if archive and not (Path(archive).is_file() and os.access(archive, os.R_OK)):
        what = f"there is no file {archive} that can be read; ranks would take the environment as it lies"
        fix = f"tar --create --file {archive} --directory ENVIRONMENT ."
        yield Finding("error", Problem(f"{case.where}: environment.archive", what, fix))


def _extras_of_file(spec: RunSpec) -> tuple[str, ...]:
    return workload_files.describe(spec.workload_file, spec.identity.workload_options, "gate").extras


def _package_findings(extras: list[str], case: Case) -> Iterator[Finding]:
    wanted = case.profile.environment
    inside = "the container" if wanted.container.image else f"conda environment {wanted.conda}" if wanted.conda else ""
    if inside:
        yield Finding(
            "unchecked", Problem(f"python '{case.python}'", f"what it has inside of {inside} is not known here")
        )
        return
    if case.python == sys.executable and not (wanted.modules or wanted.activate):
        for extra in extras:
            for package in EXTRA_PACKAGES.get(extra, (extra,)):
                if not _is_installed(package):
                    error = MissingExtraError(package, extra, f"extra '{extra}'")
                    yield from (Finding("error", problem) for problem in error.problems)
        return
    if wanted.modules:  # that Python exists only once the job has loaded its modules; the job itself will tell
        what = f"what Python has once the job has loaded {', '.join(wanted.modules)} is not known here"
        yield Finding("unchecked", Problem(f"python '{case.python}'", what))
        return
    yield from _try_interpreter(extras, case.python, wanted.activate)


def _is_installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _try_interpreter(extras: list[str], python: str, activate: str) -> Iterator[Finding]:
    packages = ["hpcpar", *(package for extra in extras for package in EXTRA_PACKAGES.get(extra, (extra,)))]
    # -P: a folder that happens to be called hpcpar where the user stands is not the installed package.
    code = f"import importlib.util as u, sys; sys.exit(' '.join(p for p in {packages!r} if not u.find_spec(p)) or 0)"
    command = [python, "-P", "-c", code]
    if activate:  # as the job script does; the words go in as arguments, not as text
        command = ["bash", "-c", 'source "$0" && exec "$@"', activate, *command]
    label = f"python '{python}'" + (f" after {activate}" if activate else "")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        fix = "name the nodes' interpreter with --python"
        yield Finding("error", Problem(label, f"cannot be started: {error}", fix))
        return
    if done.returncode:
        missing = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it failed without a message"
        hint = f"with that interpreter: {install_line(*extras or ['all'])}"
        yield Finding("error", Problem(label, f"lacks: {missing}", hint))


# ---------------------------------------------------------------- the script


def script(case: Case) -> Iterator[Finding]:
    """Yield what is wrong with a script of one's own template: Slurm says nothing of either."""
    for shot in {shot.template: shot for shot in case.shots}.values():
        yield from _script_findings(shot, case.profile.scheduler == "slurm")
        wanted = case.profile.environment
        for name, words, fix in (
            ("container", wanted.container.image, "print `job.wrap` before the interpreter"),
            ("archive", wanted.archive and '"$python"', "keep block `broadcast`; print `self.python()` as interpreter"),
        ):
            if words and words not in shot.text:
                what = f"the {name} of the profile is not in the script"
                yield Finding("error", Problem(f"template {shot.template}", what, fix))


def _script_findings(shot: Shot, slurm_reads_it: bool) -> Iterator[Finding]:
    if not slurm_reads_it:
        return
    lines = shot.text.replace("\\\n", " ").splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")), len(lines))
    late = [line for line in lines[first:] if line.startswith("#SBATCH")]
    if late:
        what = f"Slurm ignores what stands after the first command: {late[0]}"
        yield Finding("error", Problem(f"template {shot.template}", what, "put it into block `directives`"))
    for line in lines:
        if re.match(r"\s*(?:exec\s+)?srun\s", line) and not re.search(r"\s(?:--cpus-per-task|-c)[ =]?\d", line):
            what = "an srun line without --cpus-per-task: from Slurm 22.05 to 23.02 every rank would get one CPU"
            yield Finding("error", Problem(f"template {shot.template}", what, "print `job.srun_options` there"))


# ---------------------------------------------------------------- devices, ports, network


def gpus(case: Case) -> Iterator[Finding]:
    """Yield what hides a node's GPUs from its ranks, or leaves some idle."""
    variables = {**case.profile.environment.set, **case.profile.environment.multi_node}
    for name in (name for name in _VISIBILITY if name in variables):
        what = f"overrides what Slurm gives the job: it may be another job's device ({variables[name]})"
        yield Finding("error", Problem(f"{case.where}: environment: {name}", what, "leave it out"))
    for shot in _one_a_kind(case):
        kind, asked = shot.node_type, shot.resources.gpus_per_node
        if not asked:
            continue
        bound = kind.gpu_request == "gpus-per-task" or kind.gpu_bind not in ("", "none")
        if bound and shot.resources.ranks_per_node > 1:
            how = "--gpus-per-task" if kind.gpu_request == "gpus-per-task" else f"--gpu-bind={kind.gpu_bind}"
            what = f"{how}: each rank sees one GPU; on some systems copies between GPUs of a node are then slow"
            fix = 'gpu_request = "gpus-per-node" with gpu_bind = "none", unless the site says otherwise'
            yield Finding("warning", Problem(case.where, what, fix))
        idle = asked - shot.resources.ranks_per_node
        if idle > 0:
            what = (
                f"{shot.resources.ranks_per_node} ranks a node: {idle} of its {asked} GPUs stay idle, and are charged"
            )
            yield Finding("warning", Problem(case.where, what, f"--ranks-per-node {asked}"))


def _one_a_kind(case: Case) -> list[Shot]:
    return list({(shot.node_type.description, shot.resources.ranks_per_node): shot for shot in case.shots}.values())


def ports(case: Case) -> Iterator[Finding]:
    """Yield what could keep ranks from meeting: rank 0 takes a free port of the system's own range."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name in case.profile.environment.set or name in case.profile.environment.multi_node:
            what = "has no effect: rank 0 takes a free port and publishes it, so that no two jobs can meet by mistake"
            yield Finding("warning", Problem(f"{case.where}: environment: {name}", what, "leave it out"))
    try:
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return
    if high - low < _FEW_PORTS:
        what = f"the system hands out ports {low} to {high} only; jobs on one node may run out of them"
        yield Finding("warning", Problem("this machine", what, "ask the site whether its nodes are set so, too"))


def fabric(case: Case) -> Iterator[Finding]:
    """Yield settings of the network that are known to be slow, to hang or to corrupt."""
    nodes = max((shot.resources.nodes for shot in case.shots), default=1)
    for kind in {shot.node_type.description: shot.node_type for shot in case.shots}.values():
        for problem in network.known_bad(case.profile, kind, nodes):
            yield Finding("warning", problem)


# ---------------------------------------------------------------- disks


def storage(case: Case) -> Iterator[Finding]:
    """Yield folders that the nodes will not see, or that have no room."""
    if case.root is None:
        return
    there = next(path for path in (case.root, *case.root.parents) if is_folder(path))
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = _LEAST_SPACE
    if free < _LEAST_SPACE:
        what = f"has {human_memory(free)} left"
        yield Finding("warning", Problem(f"runs folder {case.root}", what, "another --runs, or make room"))
    if not os.access(there, os.W_OK):
        yield Finding("error", Problem(str(case.root), "cannot write: no permission", "another --runs"))
    if case.profile.scheduler != "slurm" or _was_written_to(case.root):
        return
    mounts = _mounts()
    needed = {f"runs folder {case.root}": there, f"hpcpar in {_home_of_hpcpar()}": _home_of_hpcpar()}
    if "/" in case.python:
        needed[f"python '{case.python}'"] = Path(case.python)
    files = {run.spec.workload_file.rpartition(":")[0] for run in case.plan.runs if run.spec.workload_file}
    needed |= {f"workload {path}": Path(path) for path in sorted(files)}
    unshared: dict[str, list[str]] = {}
    for name, path in needed.items():
        kind = _file_system(path, mounts)
        if kind in _OF_ONE_MACHINE:
            unshared.setdefault(kind, []).append(name)
    for kind, names in unshared.items():
        what = f"on a file system of this machine alone ({kind}); the nodes must see the same path"
        yield Finding("warning", Problem("; ".join(names), what, "a folder that all nodes share"))


def _was_written_to(root: Path) -> bool:
    """Say whether a run there wrote events: then the nodes see the folder."""
    studies = find_studies(root) if is_folder(root) else []
    return any(next(study.path.glob("*/events.*.jsonl"), None) for study in studies[:_STUDIES_LOOKED_AT])


def _home_of_hpcpar() -> Path:
    return Path(hpcpar.__file__).resolve().parent


def _mounts() -> dict[str, str]:
    """Return mount point to type of file system; the last mount on a point is the one that is seen."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    rows = [line.split(" ") for line in lines]
    return {row[1].replace("\\040", " "): row[2] for row in rows if len(row) > 2}


def _file_system(path: Path, mounts: dict[str, str]) -> str:
    try:
        real = path.resolve()
    except (OSError, RuntimeError):
        return ""
    return next((mounts[str(one)] for one in (real, *real.parents) if str(one) in mounts), "")


# ---------------------------------------------------------------- the profile itself


def profile(case: Case) -> Iterator[Finding]:
    """Yield what the profile calls unconfirmed."""
    keys = [key for source in case.profile.sources if not source.confirmed for key in source.keys]
    if keys:
        shown = ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
        fix = f"hpcpar cluster verify {case.profile.name}, on the machine"
        yield Finding("warning", Problem(case.where, f"unconfirmed values: {shown}", fix))
