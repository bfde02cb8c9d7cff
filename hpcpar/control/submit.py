"""Submit a study: plan, leave out what is done or under way, render, write, hand over.

A dry run stops before writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hpcpar.control import local_queue, slurm, writing
from hpcpar.control.again import requests
from hpcpar.control.forecast.ask import known
from hpcpar.control.noting import Knowledge, note_submission
from hpcpar.control.plan import Plan, PlannedRun, make_plan
from hpcpar.control.planning import pairing
from hpcpar.control.planning.limits import limit_problems
from hpcpar.control.planning.pairing import Job
from hpcpar.control.reconcile import reconcile
from hpcpar.control.render import Script
from hpcpar.control.scripts import code_of, script_of, worker_script_of
from hpcpar.errors import InputError, NoSchedulerError, Problem, SchedulerError
from hpcpar.outcome import UNREADABLE, decide
from hpcpar.profile import ClusterProfile
from hpcpar.runs import BatchFolder, StudyFolder, remember_study
from hpcpar.snapshot import Snapshot
from hpcpar.spec import Resources, Study
from hpcpar.storage import is_file, is_folder

if TYPE_CHECKING:
    from hpcpar.control.gate.checks import Case

_UNDER_WAY = ("submitted", "queued", "running")
_WITH_RESULT = ("done", UNREADABLE)


class Wish(NamedTuple):
    """How a run is to be sent that nobody names to `submit`."""

    why: str
    exclude: tuple[str, ...] = ()
    """Nodes that it is to be kept away from."""


class Request(NamedTuple):
    """What the user asked for, files read and flags merged."""

    study: Study
    profile: ClusterProfile
    where: str
    """The study's file, or "flags"; stands in messages."""
    root: Path
    version: str
    again: bool = False
    no_gate: bool = False
    """Send it unchecked; every submission says so."""
    no_snapshot: bool = False
    """Let the job run the user's files as they are when it starts."""
    cwd: str = ""
    """Where programs of the user's own are started; not given: here."""
    interpreter: str = ""
    """The interpreter on the nodes, where neither study nor profile name one; not given: this one."""
    only: Mapping[str, Wish] | None = None
    """The runs that are meant, by name, where not all are."""
    code: str | None = None
    """Digest of the snapshot in the study's folder that they run ("": none); None: the files as they are now."""
    after: int = 0
    """How many batches of the study are sent before these by the same command."""
    queued: int = 0
    """How many runs they are."""
    predict: bool | None = False
    """Foresee memory and time: refuse what cannot fit, choose time limits that nobody gave, write it into spec.json.
    None: of models whose shapes are known from an earlier plan; a submit starts no child process unasked."""
    force: bool = False
    """Submit what cannot fit all the same."""

    @property
    def python(self) -> str:
        """The interpreter on the nodes."""
        wanted = self.profile.environment
        # Of an environment that the job enters first, the interpreter is the first on its PATH.
        otherwise = "python" if wanted.conda or wanted.container.image else sys.executable
        return self.study.python or self.profile.python or self.interpreter or otherwise

    @property
    def folder(self) -> str:
        """Where programs of the user's own are started."""
        return self.cwd or str(Path.cwd())


class PreparedBatch(NamedTuple):
    """A batch that is ready to be written: its folder, its runs, its script."""

    folder: BatchFolder
    jobs: tuple[Job, ...]
    script: Script
    worker_script: Script | None = None
    """What each of its drivers submits for its workers."""

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """Its runs, job by job."""
        return tuple(run for job in self.jobs for run in job.runs)

    @property
    def resources(self) -> Resources:
        """What each of its jobs asks for."""
        return self.jobs[0].resources

    @property
    def sha256(self) -> str:
        """Digest of the script."""
        return hashlib.sha256(self.script.text.encode()).hexdigest()


class Prepared(NamedTuple):
    """All that submit would do."""

    request: Request
    plan: Plan
    study: StudyFolder
    batches: tuple[PreparedBatch, ...]
    skipped: dict[str, int]
    """Runs left out, by state: done, queued, running."""
    trouble: tuple[str, ...]
    ordinal: int
    """How many batches the study had: when there are more, somebody else has sent some meanwhile."""
    snapshot: Snapshot | None = None
    """The user's own code, where there is any."""
    held: tuple[PlannedRun, ...] = ()
    """Runs for which there is no room in the queue (`--max-queued`); `status` sends them."""


def prepare(request: Request) -> Prepared:
    """Decide what to submit and render it; writes nothing of its own.

    Raises:
        InputError: with every problem of the input at once.
    """
    plan = make_plan(request.study, request.profile, request.where, version=request.version, folder=request.folder)
    if request.predict or (request.predict is None and known()):
        plan = _predicted(plan, request)
    study = StudyFolder(request.root / request.study.name)
    knowledge = reconcile([study]) if is_folder(study.path) else Knowledge({}, [])
    todo, skipped = _select(plan, study, knowledge, request)
    trouble = list(knowledge.trouble)
    room = _room(request, trouble) if todo and request.study.max_queued else len(todo)
    jobs = _jobs(todo, request)
    held = tuple(run for job in jobs[room:] for run in job.runs)
    todo = [run for job in jobs[:room] for run in job.runs]
    ordinal = len(study.batches()) + request.after
    code = code_of(request, todo)
    groups = _arrays(jobs[:room], request.profile)
    batches = tuple(_prepare_batch(request, study, group, ordinal, code) for group in groups)
    trouble += [f"left out of the snapshot: {name}" for name in (code.left_out if code else ())]
    return Prepared(request, plan, study, batches, skipped, tuple(trouble), ordinal, code, held)


def _room(request: Request, trouble: list[str]) -> int:
    """Return how many more jobs the user wants in the queue; a task of an array is a job, as Slurm counts."""
    most = request.study.max_queued
    try:
        return max(0, most - request.queued - sum(len(row.tasks or (0,)) for row in slurm.squeue()))
    except NoSchedulerError:  # a dry run on a laptop: as if the queue were empty
        return most
    except SchedulerError as error:
        trouble.append(f"nothing is sent while nobody knows how full the queue is: {error}")
        return 0


def _predicted(plan: Plan, request: Request) -> Plan:
    from hpcpar.control.forecast.attach import attach
    from hpcpar.runs import find_studies

    studies = find_studies(request.root) if is_folder(request.root) else []
    return attach(
        plan,
        request.study,
        request.profile,
        request.where,
        studies=studies,
        force=request.force,
        trace=request.predict is not None,
    )


def case(prepared: Prepared) -> Case:
    """Return what the gate and the doctor look at."""
    from hpcpar.control.gate.checks import Case, Shot

    request = prepared.request
    shots = tuple(
        Shot(
            text=script.text,
            template=script.template,
            num_runs=num_jobs,
            resources=resources,
            node_type=request.profile.node_types[batch.runs[0].spec.identity.node_type],
        )
        for batch in prepared.batches
        for script, num_jobs, resources in _jobs_of(batch)
    )
    return Case(prepared.plan, request.profile, request.python, shots, request.root)


def _jobs_of(batch: PreparedBatch) -> Iterator[tuple[Script, int, Resources]]:
    """Yield the scripts of a batch, how many jobs each becomes at a time, and what such a job asks for."""
    resources = batch.resources
    if not resources.driver:
        yield batch.script, len(batch.jobs), resources
        return
    yield batch.script, len(batch.jobs), msgspec.structs.replace(resources, nodes=1)
    if batch.worker_script is not None:
        yield batch.worker_script, 1, resources


def submit(prepared: Prepared, warn: Callable[[Problem], None] = lambda _: None) -> list[str]:
    """Write the run folders and batches and hand them to the scheduler; return the job ids.

    `warn` is told what the gate found and lets pass.

    Everything is on disk before the scheduler is asked for the first time; if it cannot be written, what was begun is
    taken back and nothing is submitted.

    Raises:
        InputError: the gate found problems, or the folder cannot be written, or another submit is at work.
        SchedulerError: the scheduler refused a batch; batches before it stand, its own runs stay planned.
    """
    request = prepared.request
    if prepared.batches and not request.no_gate:
        from hpcpar.control import gate  # a dry run need not pay for it

        # What submitit imports takes as long as Slurm's answers, or the disk: it is read while these are waited for.
        for problem in gate.check(case(prepared), threading.Thread(target=_executors).start):
            warn(problem)
    if not prepared.batches and not prepared.held:
        if request.profile.scheduler == "local" and prepared.skipped.keys() & set(_UNDER_WAY):
            local_queue.start()  # it may have died; one that is at work stays the only one
        if request.only is None and is_folder(prepared.study.path):
            requests.note(prepared.study, request)  # the policy may be new
        return []
    with contextlib.ExitStack() as lock:
        with writing.taken_back_on_failure(prepared.study) as made:
            lock.enter_context(writing.only_submit_of(prepared.study))
            writing.refuse_overtaken(prepared)
            writing.refuse_in_flight(prepared)
            writing.write_all(prepared, made)
            remember_study(prepared.study)
        return _hand_over(prepared)


def _select(
    plan: Plan, study: StudyFolder, knowledge: Knowledge, request: Request
) -> tuple[list[PlannedRun], dict[str, int]]:
    todo, skipped = [], Counter[str]()
    has_runs = is_folder(study.path)
    for run in plan.runs:
        name = run.spec.run_name
        if request.only is not None and name not in request.only:
            continue
        folder = study.run(name)
        known = has_runs and is_file(folder.spec_path)
        state = decide(folder, knowledge.live.get(folder.path)).state if known else "planned"
        if state in _UNDER_WAY or (state in _WITH_RESULT and not request.again):
            skipped[state] += 1
        else:
            todo.append(_as_wished(run, request, study) if request.only is not None else run)
    return todo, dict(skipped)


def _as_wished(run: PlannedRun, request: Request, study: StudyFolder) -> PlannedRun:
    assert request.only is not None
    run = as_first_sent(run, request, study)
    exclude = request.only[run.spec.run_name].exclude
    return run._replace(resources=msgspec.structs.replace(run.resources, exclude=exclude))


def as_first_sent(run: PlannedRun, request: Request, study: StudyFolder) -> PlannedRun:
    """Return the run with the time limit and the memory that it was sent with, where a forecast chose them."""
    was = study.run(run.spec.run_name).spec()
    if was is None:
        return run
    time_s = run.resources.time_s if request.study.time else was.time_s
    memory = run.resources.memory or str(was.prediction.get("memory_request", ""))
    return PlannedRun(
        msgspec.structs.replace(run.spec, time_s=time_s),
        msgspec.structs.replace(run.resources, time_s=time_s, memory=memory),
    )


def _jobs(todo: list[PlannedRun], request: Request) -> list[Job]:
    if not request.study.paired or request.profile.scheduler == "local":  # on this machine all share it, one by one
        return [Job((run,), run.resources) for run in todo]
    found = pairing.jobs(todo)
    shapes = {job.resources: job for job in found if len(job.runs) > 1}
    problems: list[Problem] = []
    for resources, job in shapes.items():
        label = f"{request.where}: paired, {len(job.runs)} runs a job"
        node_type = request.profile.node_types[job.runs[0].spec.identity.node_type]
        problems += limit_problems(resources, request.profile, node_type, label)
    if problems:
        raise InputError(problems)
    return found


def _arrays(jobs: list[Job], profile: ClusterProfile) -> Iterator[tuple[Job, ...]]:
    """Group jobs of one shape, split where the site's MaxArraySize demands it."""
    groups: dict[Resources, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.resources, []).append(job)
    # MaxArraySize bounds the index: 1001 allows 0-1000.
    size = profile.max_array_size
    for same in groups.values():
        for start in range(0, len(same), size):
            yield tuple(same[start : start + size])


def _prepare_batch(
    request: Request, study: StudyFolder, jobs: tuple[Job, ...], ordinal: int, code: Snapshot | None
) -> PreparedBatch:
    # The key follows from what is submitted and from what was submitted before: a dry run shows the bytes that are
    # sent.
    names = tuple(run.spec.run_name for job in jobs for run in job.runs)
    key = hashlib.sha256("\n".join([str(study.path), str(ordinal), *names]).encode("utf-8", "replace")).hexdigest()[:10]
    folder = study.batch(key)
    worker = worker_script_of(request, folder, jobs) if jobs[0].resources.driver else None
    return PreparedBatch(folder, jobs, script_of(request, folder, jobs, code), worker)


def _executors() -> Mapping[str, Any]:
    from hpcpar.control.executors import EXECUTORS  # submitit: 0.1 s that a dry run need not pay

    return EXECUTORS


def _hand_over(prepared: Prepared) -> list[str]:
    executors = _executors()
    begun = time.time()
    job_ids = []
    try:
        for batch in prepared.batches:
            gate_passed = "skipped" if prepared.request.no_gate else "passed"
            make = executors[prepared.request.profile.scheduler]
            code = prepared.snapshot.digest if prepared.snapshot else ""
            executor = make(batch.folder, batch.sha256, begun, gate_passed, code)
            job_ids.append(executor.submit_all())
            note_submission(batch.folder, batch.folder.read())
    finally:
        if prepared.request.profile.scheduler == "local" and job_ids:
            local_queue.start()
    return job_ids
