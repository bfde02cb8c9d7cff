"""What a result depends on beside its spec: the code as it was, and what the environment told the libraries."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hpcpar

_PREFIXES = (
    *("CUDA_", "FI_", "GLOO_", "GOMP_", "HSA_", "KMP_", "MKL_", "MPICH_", "NCCL_", "NUMEXPR_", "NVIDIA_", "OMP_"),
    *("OMPI_", "OPENBLAS_", "PYTORCH_", "ROCM_", "ROCR_", "TORCH_", "TORCHINDUCTOR_", "UCX_"),
)
"""Variables that libraries of numbers, communication and devices read."""
_SLURM = frozenset(
    f"SLURM_{name}"
    for name in (
        *("CLUSTER_NAME", "CONF", "CPU_BIND", "CPU_FREQ_REQ", "CPUS_PER_TASK", "DISTRIBUTION", "GPUS_ON_NODE"),
        *("GPUS_PER_NODE", "HINT", "JOB_CONSTRAINTS", "JOB_ID", "JOB_NODELIST", "JOB_NUM_NODES", "JOB_PARTITION"),
        *("JOB_QOS", "MEM_PER_CPU", "MEM_PER_NODE", "NTASKS", "NTASKS_PER_NODE", "RESTART_COUNT", "TOPOLOGY_ADDR"),
    )
)
_SECRET = re.compile(r"TOKEN|SECRET|PASS|CREDENTIAL|API|AUTH|KEY", re.IGNORECASE)
_LONGEST = 1000
_GIT_PATIENCE_S = 5.0


def describe(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the code's digest, its commit and changes where it is a checkout, the system, and the environment.

    What cannot be read is left out: a finished training must not lose its record to that.
    """
    package = Path(hpcpar.__file__).parent
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        found["hpcpar_sha256"] = code_digest(package)
    return {
        **found,
        **checkout(package),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "environment": listed(os.environ if environment is None else environment),
    }


def listed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables on the list; whatever sounds like a secret is left out, on the list or not."""
    return {
        name: value[:_LONGEST]
        for name, value in sorted(environment.items())
        if (name.startswith(_PREFIXES) or name in _SLURM) and not _SECRET.search(name)
    }


def code_digest(package: Path) -> str:
    """Return a digest of the package's sources, by relative path and content: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def checkout(package: Path) -> dict[str, str]:
    """Return the commit of the package's own checkout, and a digest of what was changed since; {} where it is none.

    What git does not track is in the code's digest, and not in this one.
    """
    if not (package.parent / ".git").exists():
        return {}
    commit, changes = _git(package, "rev-parse", "HEAD"), _git(package, "diff", "HEAD", "--no-ext-diff", "--", ".")
    if commit is None or changes is None:
        return {}
    found = {"commit": commit.decode().strip()}
    return {**found, "changes_sha256": hashlib.sha256(changes).hexdigest()[:16]} if changes else found


def _git(package: Path, *words: str) -> bytes | None:
    command = ["git", "-C", str(package.parent), *words]
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=_GIT_PATIENCE_S).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what the machine's processor calls itself; its architecture where it has no name."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == "model name")
    return next(names, "") or platform.machine()


def device_names(device: Any, version: Path = Path("/proc/driver/nvidia/version")) -> tuple[str, str]:
    """Return what a CUDA device and its driver call themselves; empty where there is none."""
    if getattr(device, "type", "cpu") != "cuda":
        return "", ""
    import torch

    try:
        found = re.search(r"Kernel Module.*?\s(\d[\d.]+)\s", version.read_text())
    except OSError:
        found = None
    return str(torch.cuda.get_device_name(device)), found[1] if found else ""
