"""Submit a study: plan, leave out what is done or under way, render, write, hand over.

A dry run stops before writing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hpcpar import snapshot
from hpcpar.control import local_queue
from hpcpar.control.again import requests
from hpcpar.control.forecast.ask import known
from hpcpar.control.plan import Plan, PlannedRun, make_plan
from hpcpar.control.reconcile import Knowledge, note_submission, reconcile
from hpcpar.control.render import Script, Shape, job_text, refuse_unsafe, render
from hpcpar.errors import HpcparError, InputError, Problem, StorageError
from hpcpar.outcome import decide
from hpcpar.profile import ClusterProfile
from hpcpar.runs import BATCHES, BatchFolder, BatchLine, RunFolder, StudyFolder, remember_study
from hpcpar.snapshot import Snapshot
from hpcpar.spec import Resources, RunSpec, Study
from hpcpar.storage import is_file, is_folder, make_folder

if TYPE_CHECKING:
    from hpcpar.control.gate.checks import Case

_LOCK = ".lock"
_FEW, _WRITERS = 32, 16
WORKER_TEMPLATE = "worker.sh.j2"
"""Of the job that a driver starts; it extends the template of the profile."""
_UNDER_WAY = ("submitted", "queued", "running")


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
    runs: tuple[PlannedRun, ...]
    script: Script
    worker_script: Script | None = None
    """What each of its drivers submits for its workers."""

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
    ordinal = len(study.batches())
    code = code_of(request, todo)
    batches = tuple(_prepare_batch(request, study, group, ordinal, code) for group in _arrays(todo, request.profile))
    trouble = [*knowledge.trouble, *(f"left out of the snapshot: {name}" for name in (code.left_out if code else ()))]
    return Prepared(request, plan, study, batches, skipped, tuple(trouble), ordinal, code)


def code_of(request: Request, runs: Sequence[PlannedRun]) -> Snapshot | None:
    """Read the code of the user's own workload or program; None where there is no file of it, or none is wanted.

    Raises:
        InputError: it cannot be read.
    """
    return None if request.no_snapshot or not runs else _snapshot(runs[0].spec, request.root)


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


def _snapshot(spec: RunSpec, root: Path) -> Snapshot | None:
    if spec.workload_file:
        return snapshot.take(Path(spec.workload_file.rpartition(":")[0]), root)
    command = spec.identity.workload_options.get("command", ()) if spec.folder else ()
    place = snapshot.entry(command)
    if place is None or not is_file(Path(spec.folder, command[place])):
        return None
    return snapshot.take(Path(spec.folder, command[place]), root)


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
    resources = batch.runs[0].resources
    if not resources.driver:
        yield batch.script, len(batch.runs), resources
        return
    yield batch.script, len(batch.runs), msgspec.structs.replace(resources, nodes=1)
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

        for problem in gate.check(case(prepared)):
            warn(problem)
    if not prepared.batches:
        if request.profile.scheduler == "local" and prepared.skipped.keys() & set(_UNDER_WAY):
            local_queue.start()  # it may have died; one that is at work stays the only one
        if request.only is None and is_folder(prepared.study.path):
            requests.note(prepared.study, request)  # the policy may be new
        return []
    with contextlib.ExitStack() as lock:
        with _taken_back_on_failure(prepared.study) as made:
            lock.enter_context(_only_submit_of(prepared.study))
            _refuse_overtaken(prepared)
            _refuse_in_flight(prepared)
            _write_all(prepared, made)
            remember_study(prepared.study)
        return _hand_over(prepared)


def _select(
    plan: Plan, study: StudyFolder, knowledge: Knowledge, request: Request
) -> tuple[list[PlannedRun], dict[str, int]]:
    todo, skipped = [], Counter[str]()
    for run in plan.runs:
        name = run.spec.run_name
        if request.only is not None and name not in request.only:
            continue
        folder = study.run(name)
        state = decide(folder, knowledge.live.get(folder.path)).state if is_file(folder.spec_path) else "planned"
        if state in _UNDER_WAY or (state == "done" and not request.again):
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


def _arrays(todo: list[PlannedRun], profile: ClusterProfile) -> Iterator[tuple[PlannedRun, ...]]:
    """Group runs of one shape, split where the site's MaxArraySize demands it."""
    groups: dict[Resources, list[PlannedRun]] = {}
    for run in todo:
        groups.setdefault(run.resources, []).append(run)
    # MaxArraySize bounds the index: 1001 allows 0-1000.
    size = profile.max_array_size
    for runs in groups.values():
        for start in range(0, len(runs), size):
            yield tuple(runs[start : start + size])


def _prepare_batch(
    request: Request, study: StudyFolder, runs: tuple[PlannedRun, ...], ordinal: int, code: Snapshot | None
) -> PreparedBatch:
    # The key follows from what is submitted and from what was submitted before: a dry run shows the bytes that are
    # sent.
    names = tuple(run.spec.run_name for run in runs)
    key = hashlib.sha256("\n".join([str(study.path), str(ordinal), *names]).encode("utf-8", "replace")).hexdigest()[:10]
    folder = study.batch(key)
    worker = _worker_script(request, folder, runs) if runs[0].resources.driver else None
    return PreparedBatch(folder, runs, script_of(request, folder, runs, code), worker)


def _worker_script(request: Request, folder: BatchFolder, runs: tuple[PlannedRun, ...]) -> Script | None:
    if request.profile.scheduler != "slurm":
        return None
    shape = _shape(request, folder, runs, None)._replace(run_names=(), role="worker")
    return _rendered(shape, WORKER_TEMPLATE)


def script_of(request: Request, folder: BatchFolder, runs: tuple[PlannedRun, ...], code: Snapshot | None) -> Script:
    """Render the script of a batch in this folder.

    Raises:
        InputError: a value must not stand in a script, or the template is wrong.
    """
    return _rendered(_shape(request, folder, runs, code))


def _shape(request: Request, folder: BatchFolder, runs: tuple[PlannedRun, ...], code: Snapshot | None) -> Shape:
    identity = runs[0].spec.identity
    return Shape(
        key=folder.key,
        study=request.study.name,
        run_names=tuple(run.spec.run_name for run in runs),
        folder=folder.path,
        payload=folder.payload_path,
        python=request.python,
        resources=runs[0].resources,
        profile=request.profile,
        node_type=request.profile.node_types[identity.node_type],
        code=(code.folder(folder.study.path), code.root) if code else None,
        role="driver" if runs[0].resources.driver else "ranks",
    )


def _rendered(shape: Shape, template: str = "") -> Script:
    job = job_text(shape)
    problems = refuse_unsafe(job, shape.profile, shape.resources)
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    return render(job, shape.profile, template)


@contextlib.contextmanager
def _only_submit_of(study: StudyFolder) -> Iterator[None]:
    """Keep two submits of one study apart; where the file system has no locks, the batch folders still do."""
    make_folder(study.path / BATCHES)
    lock_path = study.path / BATCHES / _LOCK
    try:
        lock = lock_path.open("ab")
    except OSError as error:
        raise StorageError(lock_path, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = "another `hpcpar submit` of this study is at work"
            raise InputError(Problem(str(study.path), what, "wait for it, then look at `hpcpar status`")) from error
        except OSError:  # no locks on this file system
            pass
        yield


def _refuse_overtaken(prepared: Prepared) -> None:
    """Two that prepared at the same time would both send what neither saw under way."""
    if len(prepared.study.batches()) != prepared.ordinal:
        what = "other runs of this study were submitted in this moment"
        raise InputError(Problem(str(prepared.study.path), what, "look at `hpcpar status`, then try again"))


def _refuse_in_flight(prepared: Prepared) -> None:
    wanted = {run.spec.run_name for batch in prepared.batches for run in batch.runs}
    for folder in prepared.study.batches():
        batch = folder.read()
        answered = batch.accepted is not None or batch.refused is not None
        if batch.intent is not None and not answered and wanted & set(batch.runs.values()):
            age = time.time() - batch.intent.time
            what = f"a submission of these runs was interrupted {age:.0f} s ago and may still reach the scheduler"
            raise InputError(Problem(str(folder.path), what, "run `hpcpar status` in a minute: it finds out"))


@contextlib.contextmanager
def _taken_back_on_failure(study: StudyFolder) -> Iterator[list[Path]]:
    """Yield a list for what is made; on failure that is removed, and the folders around it that were not there."""
    batches = study.path / BATCHES
    missing = [path for path in (batches, *batches.parents) if not is_folder(path)]
    made: list[Path] = []
    try:
        yield made
    except HpcparError:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.unlink()
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _write_all(prepared: Prepared, made: list[Path]) -> None:
    if not prepared.study.batches():
        made += [prepared.study.path / BATCHES / _LOCK, prepared.study.requests_path]
    if prepared.snapshot is not None:
        place = prepared.snapshot.folder(prepared.study.path)
        made += [path for path in (place, place.parent) if not path.exists()]
        snapshot.store(prepared.snapshot, prepared.study.path)
    asked = requests.note(prepared.study, prepared.request)
    why = {name: wish.why for name, wish in (prepared.request.only or {}).items()}
    for batch in prepared.batches:
        _write_specs(prepared.study, batch, made)
        try:
            line = BatchLine(kind="asked", asked=asked, excluded=batch.runs[0].resources.exclude)
            worker_script = batch.worker_script.text if batch.worker_script else ""
            batch.folder.create(batch.script.text, [run.spec.run_name for run in batch.runs], line, why, worker_script)
        except StorageError:
            made.append(batch.folder.path)
            raise
        made.append(batch.folder.path)  # only now: where another submit made it first, it is not ours to remove


def _write_specs(study: StudyFolder, batch: PreparedBatch, made: list[Path]) -> None:
    folders = [(RunFolder(study.path / run.spec.run_name), run.spec) for run in batch.runs]
    missing = [(folder, spec) for folder, spec in folders if not is_file(folder.spec_path)]
    made += [folder.path for folder, _ in missing if not folder.path.exists()]
    if len(missing) < _FEW:
        for folder, spec in missing:
            folder.write_spec(spec)
        return
    # Each waits until its file is on the disk; together the disk makes one wait of many.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_WRITERS) as writers:
        for _ in writers.map(lambda pair: pair[0].write_spec(pair[1]), missing):
            pass


def _hand_over(prepared: Prepared) -> list[str]:
    from hpcpar.control.executors import EXECUTORS  # submitit: 0.1 s that a dry run need not pay

    begun = time.time()
    job_ids = []
    try:
        for batch in prepared.batches:
            gate_passed = "skipped" if prepared.request.no_gate else "passed"
            make: Any = EXECUTORS[prepared.request.profile.scheduler]
            code = prepared.snapshot.digest if prepared.snapshot else ""
            executor = make(batch.folder, batch.sha256, begun, gate_passed, code)
            job_ids.append(executor.submit_runs([prepared.study.path / run.spec.run_name for run in batch.runs]))
            note_submission(batch.folder, batch.folder.read())
    finally:
        if prepared.request.profile.scheduler == "local" and job_ids:
            local_queue.start()
    return job_ids
