"""The scripts of a batch, and the code of the user's own that its jobs run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcpar import snapshot
from hpcpar.control.planning.pairing import Job
from hpcpar.control.render import Script, Shape, job_text, refuse_unsafe, render
from hpcpar.errors import InputError
from hpcpar.runs import BatchFolder
from hpcpar.snapshot import Snapshot
from hpcpar.spec import RunSpec
from hpcpar.storage import is_file

if TYPE_CHECKING:
    from hpcpar.control.plan import PlannedRun
    from hpcpar.control.submit import Request

WORKER_TEMPLATE = "worker.sh.j2"
"""Of the job that a driver starts; it extends the template of the profile."""


def code_of(request: Request, runs: Sequence[PlannedRun]) -> Snapshot | None:
    """Read the code of the user's own workload or program; None where there is no file of it, or none is wanted.

    Raises:
        InputError: it cannot be read.
    """
    if request.no_snapshot or not runs or request.code == "":
        return None
    file = _code_file(runs[0].spec)
    if file is None:
        return None
    if request.code is None:
        return snapshot.take(file, request.root)
    return snapshot.stored(file.absolute().parent, request.root / request.study.name, request.code)


def _code_file(spec: RunSpec) -> Path | None:
    """Return the file of the user's own workload or program, where there is one."""
    if spec.workload_file:
        return Path(spec.workload_file.rpartition(":")[0])
    command = spec.identity.workload_options.get("command", ()) if spec.folder else ()
    place = snapshot.entry(command)
    if place is None or not is_file(Path(spec.folder, command[place])):
        return None
    return Path(spec.folder, command[place])


def worker_script_of(request: Request, folder: BatchFolder, jobs: tuple[Job, ...]) -> Script | None:
    """Render what each driver of a batch submits for its workers; None where nothing is submitted."""
    if request.profile.scheduler != "slurm":
        return None
    shape = _shape(request, folder, jobs, None)._replace(run_names=(), role="worker")
    return _rendered(shape, WORKER_TEMPLATE)


def script_of(request: Request, folder: BatchFolder, jobs: tuple[Job, ...], code: Snapshot | None) -> Script:
    """Render the script of a batch in this folder.

    Raises:
        InputError: a value must not stand in a script, or the template is wrong.
    """
    return _rendered(_shape(request, folder, jobs, code))


def _shape(request: Request, folder: BatchFolder, jobs: tuple[Job, ...], code: Snapshot | None) -> Shape:
    identity, resources = jobs[0].runs[0].spec.identity, jobs[0].resources
    return Shape(
        key=folder.key,
        study=request.study.name,
        run_names=tuple(" ".join(run.spec.run_name for run in job.runs) for job in jobs),
        folder=folder.path,
        payload=folder.payload_path,
        python=request.python,
        resources=resources,
        profile=request.profile,
        node_type=request.profile.node_types[identity.node_type],
        code=(code.folder(folder.study.path), code.root) if code else None,
        role="driver" if resources.driver else "ranks",
    )


def _rendered(shape: Shape, template: str = "") -> Script:
    job = job_text(shape)
    problems = refuse_unsafe(job, shape)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return render(job, shape.profile, template)
