"""What is checked once more before anything is written or submitted for real: things a dry run need not have."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator

from hpcpar import registry, workload_files
from hpcpar.control import slurm
from hpcpar.control.plan import Plan
from hpcpar.errors import InputError, MissingExtraError, NoSchedulerError, Problem, install_line
from hpcpar.profile import ClusterProfile
from hpcpar.spec import RunSpec

EXTRA_PACKAGES = {
    "torch": ("torch", "numpy", "sklearn"),
    "deepspeed": ("deepspeed",),
    "xgboost": ("xgboost",),
    "parquet": ("pyarrow",),
    "dask": ("dask_jobqueue", "distributed"),
}
"""Packages by which an extra is recognised."""
_CHILD_TIMEOUT_S = 120


def check(plan: Plan, profile: ClusterProfile, python: str) -> None:
    """Raise what would make these runs fail for certain.

    Raises:
        InputError: with every problem: no scheduler, no account, packages missing in the nodes' Python.
    """
    problems = [problem for problem in plan.warnings if problem.where.startswith("cluster ")]
    if profile.scheduler == "slurm":
        for command in ("sbatch", "srun", "squeue"):
            if not slurm.have(command):
                problems += NoSchedulerError(command).problems
                break
    extras = sorted({extra for run in plan.runs for extra in _extras(run.spec.identity.strategy)})
    extras = sorted({*extras, *(extra for run in plan.runs for extra in _workload_extras(run.spec))})
    problems += _package_problems(extras, profile, python)
    if problems:
        raise InputError(problems)


def _extras(strategy: str) -> tuple[str, ...]:
    return registry.get_strategy(strategy).extras


def _workload_extras(spec: RunSpec) -> tuple[str, ...]:
    if spec.workload_file:
        return workload_files.describe(spec.workload_file, spec.identity.workload_options, "gate").extras
    return registry.get_workload(spec.identity.workload).extras


def _package_problems(extras: list[str], profile: ClusterProfile, python: str) -> Iterator[Problem]:
    if python == sys.executable:
        for extra in extras:
            for package in EXTRA_PACKAGES.get(extra, (extra,)):
                if importlib.util.find_spec(package) is None:
                    yield from MissingExtraError(package, extra, f"extra '{extra}'").problems
        return
    if profile.environment.modules or profile.environment.activate:
        return  # that Python exists only once the job has loaded its modules; the job itself will tell
    packages = ["hpcpar", *(package for extra in extras for package in EXTRA_PACKAGES.get(extra, (extra,)))]
    # -P: a folder that happens to be called hpcpar where the user stands is not the installed package.
    code = f"import importlib.util as u, sys; sys.exit(' '.join(p for p in {packages!r} if not u.find_spec(p)) or 0)"
    try:
        done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, timeout=_CHILD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Problem(f"python '{python}'", f"cannot be started: {error}", "name the nodes' interpreter with --python")
        return
    if done.returncode:
        missing = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it failed without a message"
        hint = f"with that interpreter: {install_line(*extras or ['all'])}"
        yield Problem(f"python '{python}'", f"lacks: {missing}", hint)
