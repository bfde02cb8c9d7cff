"""All checks before a submission: what `hpcpar doctor` prints is what stands in front of every submit.

Errors stop a submit before anything is written. Warnings are said. What could not be looked at stops nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from hpcpar.control.gate import checks, online
from hpcpar.control.gate.checks import Case, Finding
from hpcpar.errors import InputError, Problem


class Check(NamedTuple):
    """One check by its name."""

    name: str
    about: str
    look: Callable[[Case], Iterable[Finding]]
    needs_plan: bool = True


OFFLINE = (
    Check("account", "an account to charge, where the cluster wants one", checks.account),
    Check("scheduler", "the scheduler's commands", checks.scheduler, needs_plan=False),
    Check("environment", "packages in the Python that the job will use", checks.environment),
    Check("script", "CPUs on the srun line, directives before the first command", checks.script),
    Check("gpus", "every rank sees its node's GPUs, and none is idle", checks.gpus),
    Check("ports", "ports on which ranks meet", checks.ports, needs_plan=False),
    Check("network", "no setting of the network that is known to be bad", checks.fabric),
    Check("storage", "room, and folders that all nodes see", checks.storage, needs_plan=False),
    Check("profile", "no value that the profile calls unconfirmed", checks.profile, needs_plan=False),
)
ONLINE = (
    Check("sbatch", "sbatch --test-only of every script", online.test_only),
    Check("limits", "limits of partition, QOS, association and allocation that --test-only misses", online.limits),
)


class Result(NamedTuple):
    """What a check found."""

    check: Check
    findings: tuple[Finding, ...]


def examine(case: Case, meanwhile: Callable[[], object] = lambda: None) -> Iterator[Result]:
    """Run every check; those that ask Slurm only where its commands are there, and then all at once.

    `meanwhile` is called while Slurm is asked.
    """
    online_too = case.profile.scheduler == "slurm"
    why_not = unasked = "" if case.shots else "there is nothing to submit"
    for check in OFFLINE:
        yield (result := _look(check, case, why_not if check.needs_plan else ""))
        if check.name == "scheduler" and result.findings:
            unasked = unasked or "its commands are not here"
    if online_too and unasked:
        yield from (_look(check, case, unasked) for check in ONLINE)
    elif online_too:
        with ThreadPoolExecutor(len(ONLINE)) as pool:
            asked = [pool.submit(_look, check, case, "") for check in ONLINE]
            meanwhile()
            yield from (one.result() for one in asked)


def _look(check: Check, case: Case, why_not: str) -> Result:
    if why_not:
        return Result(check, (Finding("unchecked", Problem(check.about, why_not)),))
    return Result(check, tuple(check.look(case)))


def check(case: Case, meanwhile: Callable[[], object] = lambda: None) -> list[Problem]:
    """Run every check and return the warnings; `meanwhile` as in `examine`.

    Raises:
        InputError: with every error of every check.
    """
    findings = [finding for result in examine(case, meanwhile) for finding in result.findings]
    errors = [finding.problem for finding in findings if finding.level == "error"]
    if errors:
        raise InputError(list(dict.fromkeys(errors)))
    return list(dict.fromkeys(finding.problem for finding in findings if finding.level == "warning"))
