"""Run a run once more with the same bytes, or say what differs from when it was sent.

Everything is made again from what the study was asked for (requests.jsonl): the plan, spec.json, and the job script of
the batch that the run was part of, byte by byte. Beside that stand the versions that the run recorded.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from hpcpar import __version__
from hpcpar.control.again import requests
from hpcpar.control.plan import PlannedRun, make_plan
from hpcpar.control.planning import pairing
from hpcpar.control.scripts import code_of, script_of
from hpcpar.control.submit import Prepared, Request, Wish, as_first_sent, prepare
from hpcpar.errors import InputError, Problem
from hpcpar.runs import Batch, BatchFolder, RunFolder, StudyFolder
from hpcpar.spec import RunSpec

_DIFF_LINES = 40
_NO_MATTER = {"billing", "prediction"}
"""Fields of spec.json that change nothing of what is computed, and that a later day foresees otherwise."""


class Comparison(NamedTuple):
    """A run as it would be sent now, beside how it was sent."""

    request: Request
    differences: list[str]
    unchecked: list[str]
    """What could not be compared from here."""


def compare(run: RunFolder) -> Comparison:
    """Make everything again and compare.

    Raises:
        InputError: nothing says what the run was planned from, or it cannot be planned any more.
    """
    study = StudyFolder(run.path.parent)
    requests.refuse_foreign(study)
    folder, batch = _batch(run, study)
    asked = next((one for one in requests.read(study) if batch.asked and one.name == batch.asked), None)
    spec = run.spec()
    if asked is None or spec is None:
        what = "nothing says what it was planned from"
        raise InputError(Problem(run.path.name, what, "`hpcpar submit --again` of its study runs it once more"))
    request = requests.as_request(asked, study, __version__)
    plan = make_plan(request.study, request.profile, request.where, version=request.version, folder=request.folder)
    planned = {one.spec.run_name: as_first_sent(one, request, study) for one in plan.runs}
    if run.path.name not in planned:
        return Comparison(request, ["the study as it was asked for has no such run any more"], [])
    differences = [*_in_spec(spec, planned[run.path.name].spec), *_in_script(request, folder, batch, planned)]
    found, unchecked = _in_versions(run, request)
    return Comparison(request, [*differences, *found], unchecked)


def again(run: RunFolder, comparison: Comparison) -> Prepared:
    """Prepare the run once more, done or not.

    Raises:
        InputError: it is under way.
    """
    name = run.path.name
    prepared = prepare(comparison.request._replace(only={name: Wish("rerun")}, again=True))
    if not prepared.batches:
        state = next(iter(prepared.skipped), "gone")
        raise InputError(Problem(f"run '{name}'", f"is {state}", "wait for it, or `hpcpar cancel` it"))
    return prepared


def _batch(run: RunFolder, study: StudyFolder) -> tuple[BatchFolder, Batch]:
    record = run.record()
    lines = [line for line in run.submissions() if line.kind == "submitted"]
    own = [line for line in lines if record is not None and line.job_id == record.job_id]
    if not lines:
        raise InputError(Problem(run.path.name, "was never submitted", "`hpcpar resubmit` sends it"))
    folder = study.batch((own or lines)[-1].batch)
    return folder, folder.read()


def _in_spec(was: RunSpec, now: RunSpec) -> Iterator[str]:
    before, after = _as_read(was), _as_read(now)
    for name in after.keys() - _NO_MATTER:
        if before[name] != after[name]:
            yield f"spec.json: {name} is {after[name]!a}, it was {before[name]!a}"


def _as_read(spec: RunSpec) -> dict[str, Any]:
    """Return the spec as a file gives it back: what was planned holds tuples, what was read holds lists."""
    read: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec))
    return read


def _in_script(request: Request, folder: BatchFolder, batch: Batch, planned: dict[str, PlannedRun]) -> Iterator[str]:
    gone = [name for name in batch.runs.values() if name not in planned]
    if gone:
        yield f"job.sh: of its array {len(gone)} runs are planned no more"
        return
    by_task: dict[int, list[PlannedRun]] = {}
    for index in sorted(batch.runs):
        one = planned[batch.runs[index]]
        resources = msgspec.structs.replace(one.resources, exclude=batch.excluded)
        by_task.setdefault(batch.task(index), []).append(one._replace(resources=resources))
    runs = [run for group in by_task.values() for run in group]
    jobs = tuple(pairing.as_job(tuple(by_task[task])) for task in sorted(by_task))
    try:
        was = folder.script_path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        yield f"job.sh: cannot be read: {error.strerror}"
        return
    now = script_of(request, folder, jobs, code_of(request, runs)).text
    labels = ("job.sh as it was sent", "job.sh now")
    different = list(difflib.unified_diff(was.splitlines(), now.splitlines(), *labels, n=0, lineterm=""))
    if different:
        more = len(different) - _DIFF_LINES
        yield "\n".join(different[:_DIFF_LINES] + ([f"... and {more} more lines"] if more > 0 else []))


def _in_versions(run: RunFolder, request: Request) -> tuple[list[str], list[str]]:
    record = run.record()
    if record is None:
        return [], ["versions: the run has no result that names them"]
    if request.python != sys.executable:
        return [], [f"versions: those of {request.python} are not known here"]
    found = []
    for name, was in sorted(record.versions.items()):
        now = _version(name)
        if now != was:
            found.append(f"version of {name} is {now or 'none'}, it was {was}")
    return found, []


def _version(package: str) -> str:
    if package == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
