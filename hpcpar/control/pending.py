"""Slurm's reasons for waiting, in words. Source: squeue(1), "JOB REASON CODES", Slurm 22.05 and 24.05."""

from __future__ import annotations

_WORDS = {
    "Priority": "jobs with a higher priority are before it",
    "Resources": "it is next, and waits for nodes to become free",
    "None": "just submitted",
    "BeginTime": "its start time has not come yet (a requeued job waits a moment)",
    "Dependency": "it waits for another job to end",
    "DependencyNeverSatisfied": "the job it waits for failed: it will never start; cancel it",
    "JobHeldUser": "you hold it: release it with `scontrol release`",
    "JobHeldAdmin": "an administrator holds it: ask the site",
    "JobArrayTaskLimit": "the array's own limit of tasks at a time is reached",
    "Licenses": "it waits for a licence",
    "Reservation": "it waits for its reservation to begin",
    "ReqNodeNotAvail": "a node it needs is down, drained or reserved (often maintenance)",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows: it will never start; cancel it",
    "PartitionTimeLimit": "it asks for more time than the partition allows: it will never start; cancel it",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs at present",
    "NodeDown": "a node it needs is down",
    "BadConstraints": "no node meets its constraint: it will never start; cancel it",
    "InvalidAccount": "its account is not valid: cancel it and name another",
    "InvalidQOS": "its QOS is not valid: cancel it and name another",
    "QOSGrpBillingMinutes": "the allocation's balance is used up or too small for it",
    "AssocGrpBillingMinutes": "the allocation's balance is used up or too small for it",
    "AssocMaxJobsLimit": "your limit of running jobs is reached",
    "QOSMaxJobsPerUserLimit": "this QOS's limit of running jobs a user is reached",
    "QOSMaxSubmitJobPerUserLimit": "this QOS's limit of submitted jobs a user is reached",
    "MaxMemPerLimit": "it asks for more memory than is allowed: it will never start; cancel it",
    "Prolog": "its nodes are being prepared",
    "Cleaning": "it was requeued and its nodes are being cleaned",
    "launch failed requeued held": "it could not be started and is held: look at its nodes, then `scontrol release`",
    "JobHoldMaxRequeue": "it was requeued too often and is held",
}
_FAMILIES = {
    "QOSMax": "a limit of its QOS is reached",
    "QOSGrp": "a limit of its QOS for all users is reached",
    "QOSMin": "it asks for less than its QOS demands: it will never start; cancel it",
    "AssocMax": "a limit of your account is reached",
    "AssocGrp": "a limit of your project is reached",
    "Max": "a limit of your account is reached",
}


def in_words(reason: str) -> str:
    """Say a pending reason in words, with Slurm's own word behind it; an unknown reason stays as it is."""
    code = reason.strip().strip("()")
    if not code:
        return ""
    name = code.split(",")[0].split(":")[0].strip()
    words = _WORDS.get(code) or _WORDS.get(name)
    if words is None:
        words = next((text for prefix, text in _FAMILIES.items() if name.startswith(prefix)), None)
    return f"{words} ({name})" if words else code
