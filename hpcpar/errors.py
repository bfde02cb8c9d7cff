"""Every error that a user can see.

    HpcparError                 exit 1   something failed
    +-- InputError              exit 2   what was asked for cannot be done; carries all problems at once
    |   +-- MissingExtraError   exit 2   a package of an optional extra is not installed
    |   +-- StorageError        exit 2   a folder cannot be written (read-only, full, no permission)
    |   +-- NoSchedulerError    exit 2   the scheduler's commands are not on PATH
    +-- SchedulerError          exit 1   the scheduler was asked and refused, or did not answer in time
    |   +-- UnansweredError     exit 1   a job was sent, and nobody knows whether it was taken
    +-- RunError                exit 1   a run cannot go on; the worker turns it into a cause of death

Only the command line catches the base class; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with an input: where it stands, what is wrong, and what would be right."""

    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n    {self.fix}" if self.fix else text


class HpcparError(Exception):
    """The root of the tree; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(HpcparError):
    """Bad input: nothing was submitted and nothing was written. `problems` holds every one that was found."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class MissingExtraError(InputError):
    """A package that an optional extra would bring is missing."""

    def __init__(self, package: str, extra: str, needed_by: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(
            Problem(needed_by, f"needs the package '{package}', which is not installed", install_line(extra))
        )


class StorageError(InputError):
    """A file or folder could not be written."""

    def __init__(self, path: object, cause: OSError) -> None:
        self.path = str(path)
        reason = cause.strerror or type(cause).__name__
        fix = "name another place: --runs DIR, or HPCPAR_STATE for the queue and the index"
        super().__init__(Problem(self.path, f"cannot write: {reason}", fix))


class NoSchedulerError(InputError):
    """A command of the scheduler is not on PATH."""

    def __init__(self, command: str) -> None:
        self.command = command
        super().__init__(
            Problem(
                "scheduler",
                f"no '{command}' on PATH: this machine cannot submit to Slurm",
                "submit from a login node of the cluster, look at the script with --dry-run, or use --cluster local",
            )
        )


class SchedulerError(HpcparError):
    """A scheduler command failed or did not answer; `stderr` holds its own words."""

    def __init__(self, command: str, stderr: str) -> None:
        self.command, self.stderr = command, stderr.strip()
        super().__init__(f"{command}: {self.stderr or 'failed without a message'}")


class UnansweredError(SchedulerError):
    """A submission was sent and no answer came that can be read: the scheduler may have taken it all the same."""

    def __init__(self, command: str, stderr: str) -> None:
        super().__init__(command, stderr)
        self.args = (f"{self}\n    the job may have been accepted all the same: `hpcpar status` finds out in a minute",)


class RunError(HpcparError):
    """A run cannot go on; `cause` is one of the cause classes of `records.Cause`."""

    def __init__(self, cause: str, message: str) -> None:
        self.cause = cause
        super().__init__(message)


BY_HAND = {
    "horovod": (
        "hpcpar cannot install Horovod: version 0.28.1 (the newest) works with torch 2.13, but must be built from "
        "source with C++17 (docs/strategies.md has the commands); ddp does the same work without it"
    ),
}
"""Extras that no package index offers ready-made, and what to do."""


def install_line(*extras: str) -> str:
    """Return the command that installs the packages of these extras; a sentence for those that pip cannot install."""
    with_pip = ",".join(extra for extra in extras if extra not in BY_HAND)
    lines = [f"pip install 'hpcpar[{with_pip}]'"] if with_pip else []
    return "; ".join([*lines, *(BY_HAND[extra] for extra in extras if extra in BY_HAND)])


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return a hint that offers the closest candidate, or lists what there is."""
    import difflib  # only on the way to an error message

    known = sorted(candidates)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listing = "one of: " + ", ".join(known) if known else "there is nothing to choose from"
    return f"did you mean '{match[0]}'? ({listing})" if match else listing
