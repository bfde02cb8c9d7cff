"""What a study was asked for: every `submit` leaves its study and profile, so that runs can be sent again without them.

STUDY/requests.jsonl has a line each time that something else was asked for. The last one whose plan holds a run says
how that run is sent again, and what the study's policy is.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from hpcpar import records
from hpcpar.decode import decode
from hpcpar.errors import InputError, Problem
from hpcpar.profile import ClusterProfile
from hpcpar.runs import StudyFolder, is_remembered
from hpcpar.spec import SCHEMA, Study

if TYPE_CHECKING:
    from hpcpar.control.submit import Request


class Asked(Struct, frozen=True, kw_only=True):
    """One request, with everything that it was planned from."""

    schema: int = SCHEMA
    time: float
    study: Study
    profile: ClusterProfile
    where: str
    python: str
    cwd: str
    version: str
    no_gate: bool = False
    no_snapshot: bool = False

    @property
    def name(self) -> str:
        """Ten hexadecimal digits of what is asked for; when, and by which version, does not count."""
        same = msgspec.structs.replace(self, time=0.0, version="")
        return hashlib.sha256(msgspec.json.encode(same, order="deterministic")).hexdigest()[:10]


def note(study: StudyFolder, request: Request) -> str:
    """Add a request to the study's, unless it is the last one already; return its name.

    Raises:
        StorageError: it cannot be written.
    """
    asked = Asked(
        time=time.time(),
        study=request.study,
        profile=request.profile,
        where=request.where,
        python=request.python,
        cwd=request.folder,
        version=request.version,
        no_gate=request.no_gate,
        no_snapshot=request.no_snapshot,
    )
    before = read(study)
    if not before or before[-1].name != asked.name:
        records.append(study.requests_path, asked)
    return asked.name


def read(study: StudyFolder) -> list[Asked]:
    """Return what was asked for, oldest first."""
    return records.read_lines(study.requests_path, Asked).records


def has_policy(study: StudyFolder) -> bool:
    """Say whether the study's failed runs may be sent again by policy, and by this user."""
    asked = read(study)
    return bool(asked) and asked[-1].study.policy is not None and _may_be_sent(study)


def max_queued(study: StudyFolder) -> int:
    """Return how many jobs this user wants in the queue, as it was last asked for; 0: any number, or not this user."""
    asked = read(study)
    return asked[-1].study.max_queued if asked and _may_be_sent(study) else 0


def _may_be_sent(study: StudyFolder) -> bool:
    # A folder that was copied here could name any program: looking at it must start none.
    return os.access(study.path, os.W_OK) and is_remembered(study)


def refuse_foreign(study: StudyFolder) -> None:
    """Refuse to send what somebody else asked for.

    Raises:
        InputError: this user did not submit the study, or at another place.
    """
    if not is_remembered(study):
        what = "was not submitted by you at this place: what it would start is not known to be yours"
        raise InputError(Problem(str(study.path), what, "`hpcpar submit` its study; what is done is left out"))


def changed(asked: Asked, changes: Mapping[str, str]) -> Asked:
    """Return the request with other values of the study.

    Raises:
        InputError: a value is none.
    """
    if not changes:
        return asked
    data = {**msgspec.to_builtins(asked.study), **changes}
    return msgspec.structs.replace(asked, study=decode(Study, data, "flags"))


def as_request(asked: Asked, study: StudyFolder, version: str) -> Request:
    """Return the request once more."""
    from hpcpar.control.submit import Request

    root: Path = study.path.parent
    return Request(
        study=asked.study,
        profile=asked.profile,
        where=asked.where,
        root=root,
        version=version,
        no_gate=asked.no_gate,
        no_snapshot=asked.no_snapshot,
        cwd=asked.cwd,
        interpreter=asked.python,
    )
