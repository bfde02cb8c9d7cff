"""Apply the studies' policies: failed runs are sent again as their table `[policy]` says.

`status` calls it; there is no daemon. A retry is counted by its cause since a person last sent the run, and each is a
line of submission.jsonl that says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hpcpar.control import slurm
from hpcpar.control.again import requests, resubmit
from hpcpar.control.again.resubmit import Candidate
from hpcpar.control.submit import Wish, submit
from hpcpar.errors import HpcparError
from hpcpar.outcome import Outcome
from hpcpar.policy import Policy, Reaction
from hpcpar.records import Cause
from hpcpar.runs import RunFolder, StudyFolder
from hpcpar.spec import Submission


class Applied(NamedTuple):
    """What was done, and what stood in the way."""

    sent: list[str]
    """A sentence for each run that was sent again."""
    trouble: list[str]


def policy_of(study: StudyFolder) -> Policy | None:
    """Return the study's policy, as it was last asked for; None where it has none."""
    asked = requests.read(study)
    return asked[-1].study.policy if asked else None


def apply(studies: Iterable[StudyFolder], failed: Iterable[RunFolder]) -> Applied:
    """Send again what the policies say of these failed runs; asks nobody where nothing is to be sent."""
    policies = {study.path: policy for study in studies if (policy := policy_of(study)) is not None}
    runs = [run for run in failed if run.path.parent in policies and _has_retry(run, policies[run.path.parent])]
    if not runs:
        return Applied([], [])
    try:
        candidates, trouble = resubmit.look(runs)
        wishes = {
            one.run.path: wish
            for one in candidates
            if (wish := _wish(one, policies[one.study.path].reaction(str(one.outcome.cause)))) is not None
        }
        chosen = [one for one in candidates if one.run.path in wishes]
        return Applied(_send(chosen, wishes), trouble)
    except HpcparError as error:
        return Applied([], [f"the policy could not be applied: {error}"])


def _has_retry(run: RunFolder, policy: Policy) -> bool:
    return any(policy.reaction(cause).retry > used(run, cause) for cause in Policy.causes())


def _send(chosen: list[Candidate], wishes: dict[Path, Wish]) -> list[str]:
    sent = []
    for prepared in resubmit.prepare_again(chosen, wishes):
        submit(prepared)
        runs = [(prepared.study, run.spec.run_name) for batch in prepared.batches for run in batch.runs]
        sent += [f"{study.name}/{name}: sent again, {wishes[study.path / name].why}" for study, name in runs]
    return sent


def _wish(one: Candidate, reaction: Reaction) -> Wish | None:
    count = used(one.run, str(one.outcome.cause))
    if one.outcome.cause is None or count >= reaction.retry:
        return None
    exclude = excluded(one.run)
    if reaction.exclude_node:
        exclude = tuple(sorted({*exclude, *_bad_nodes(one.outcome)}))
    without = f", without {','.join(exclude)}" if exclude else ""
    return Wish(f"{_prefix(str(one.outcome.cause))}{count + 1} of {reaction.retry}){without}", exclude)


def _bad_nodes(outcome: Outcome) -> set[str]:
    """Return the nodes that a retry is to avoid: the one that told the cause, or those that are down."""
    if len(outcome.nodes) == 1:
        return set(outcome.nodes)
    if outcome.cause in (Cause.NODE_FAIL, Cause.NETWORK, Cause.KILLED, Cause.VANISHED):
        return set(outcome.nodes) & slurm.unusable_nodes()
    return set()


def _prefix(cause: str) -> str:
    return f"policy: {cause} ("


def _since_a_person(run: RunFolder) -> list[Submission]:
    """Return the submissions by policy since the last one that a person asked for."""
    submitted = [line for line in run.submissions() if line.kind == "submitted"]
    first = max((i for i, line in enumerate(submitted) if not line.reason.startswith("policy: ")), default=-1)
    return submitted[first + 1 :]


def used(run: RunFolder, cause: str) -> int:
    """Return how many retries of this cause a run has had."""
    return sum(line.reason.startswith(_prefix(cause)) for line in _since_a_person(run))


def excluded(run: RunFolder) -> tuple[str, ...]:
    """Return the nodes that retries of this run have been kept away from so far."""
    return tuple(sorted({node for line in _since_a_person(run) for node in line.excluded}))
