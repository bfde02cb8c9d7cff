"""The runs folder: this module and run_folder.py are the only ones that know its file names.

    RUNS/STUDY/KEY-rREPEAT/     a run:   spec.json submission.jsonl events.A.jsonl steps.A.jsonl record.json logs/
    RUNS/STUDY/batches/KEY/     a batch: job.sh payload.pkl manifest.jsonl
    RUNS/STUDY/code/DIGEST/     the user's own code at a submission (snapshot.py)
    RUNS/STUDY/                 requests.jsonl

A is the attempt, JOBID[_TASK].RESTARTS. Append-only files are the truth; folder names are opaque. Everything is private
to the user, and everything but the batches can be copied elsewhere and collected there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from hpcpar import records
from hpcpar.errors import InputError, Problem, StorageError
from hpcpar.run_folder import RunFolder, Seen, Snapshot
from hpcpar.storage import append_line, expand_home, is_file, is_folder, make_folder, write_file

__all__ = ["RunFolder", "Snapshot"]  # of another module, and found here by whoever reads runs

BATCHES = "batches"
"""The folder of a study's batches; no run and no study has this name."""
WORKER_TAG = "hpcpar-workers-"
"""Before the job id of a driver: the name of the job in which its workers are."""
WORKER_SCRIPT_VARIABLE = "HPCPAR_WORKER_SCRIPT"
"""Where a driver finds what it submits for its workers; its job script sets it."""


def worker_tag(attempt: str) -> str:
    """Return the job name of the workers of a driver, the same for all attempts of its job."""
    return WORKER_TAG + attempt.rpartition(".")[0]


def batch_tag(study: str, batch_key: str) -> str:
    """Return the job name under which the scheduler knows a batch; status finds lost submissions by it."""
    return f"hpcpar-{study[:40]}-{batch_key}"


class BatchLine(Struct, kw_only=True, omit_defaults=True):
    """One line of a batch's manifest.jsonl.

    asked: which of the study's requests this batch comes from. run: a run; `index` counts them, and is the array's
    where `task` does not say otherwise. intent: the scheduler is about to be asked. accepted: it gave a job id.
    refused: it said no. Reading "intent" without an answer means: look the tag up at the scheduler.
    """

    kind: Literal["asked", "run", "intent", "accepted", "refused"]
    asked: str = ""
    """The request's name (control/again/requests.py)."""
    excluded: tuple[str, ...] = ()
    """Nodes that the batch is kept away from."""
    index: int | None = None
    task: int | None = None
    """The array task in which a run is, where it is not its index: several runs share a job (`submit --paired`)."""
    run: str = ""
    why: str = ""
    """Why the run is sent, where nobody asked for it by `submit`."""
    time: float = 0.0
    begun: float = 0.0
    """When the submit began that this batch is part of: runs of one submit keep the study's order on this machine."""
    scheduler: str = ""
    job_id: str = ""
    script_sha256: str = ""
    gate: str = ""
    """"passed", or "skipped" by --no-gate."""
    code_sha256: str = ""
    """Of the snapshot of the user's code; "" where there is none."""
    error: str = ""
    host: str = ""
    pid: int = 0
    queue: str = ""
    """Folder of the local queue that was asked; "": Slurm, or an older version."""


class Batch(NamedTuple):
    """What a manifest says."""

    runs: dict[int, str]
    intent: BatchLine | None
    accepted: BatchLine | None
    refused: BatchLine | None
    asked: str = ""
    excluded: tuple[str, ...] = ()
    why: dict[int, str] = {}
    shared: dict[int, int] = {}
    """Of jobs that several runs share: the array task of each index."""

    def task(self, index: int) -> int:
        """Return the array task in which a run is."""
        return self.shared.get(index, index)

    @property
    def num_tasks(self) -> int:
        """How many jobs it is."""
        return len({self.task(index) for index in self.runs})


class BatchFolder:
    """One submitted array: a script, a payload, a manifest. Three files, however many runs."""

    def __init__(self, path: Path, study: StudyFolder | None = None) -> None:
        self.path = path
        self.study = study or StudyFolder(path.parent.parent)

    @property
    def key(self) -> str:
        """The batch's key: the tag under which the scheduler knows it ends in this."""
        return self.path.name

    @property
    def script_path(self) -> Path:
        """job.sh, exactly as it was handed to the scheduler."""
        return self.path / "job.sh"

    @property
    def worker_script_path(self) -> Path:
        """worker.sh: what a driver submits for its workers; only where the runs have drivers."""
        return self.path / "worker.sh"

    @property
    def payload_path(self) -> Path:
        """payload.pkl: a reference to the worker's entry; unpickled in the job only."""
        return self.path / "payload.pkl"

    @property
    def manifest_path(self) -> Path:
        """manifest.jsonl: index to run, and the journal of the submission."""
        return self.path / "manifest.jsonl"

    @property
    def logs(self) -> Path:
        """What the job scripts printed before and after the ranks."""
        return self.path / "logs"

    def create(
        self,
        script: str,
        run_names: Iterable[str],
        asked: BatchLine | None = None,
        why: Mapping[str, str] | None = None,
        *,
        worker_script: str = "",
        tasks: Sequence[int] | None = None,
        durable: bool = True,
    ) -> None:
        """Make the folder with script and manifest; fails if the batch is there already (somebody else submits it).

        `asked` is its line of that kind; `why` says of runs, by name, why they are sent; `tasks` are the array tasks of
        the runs, where several share a job; `durable` as in `storage.write_file`.

        Raises:
            InputError: another process made this batch.
            StorageError: the disk says no.
        """
        try:
            make_folder(self.path, exist_ok=False)
        except FileExistsError as error:
            raise InputError(
                Problem(str(self.path), "these runs are being submitted by another process", "look at `hpcpar status`")
            ) from error
        make_folder(self.logs)
        why = why or {}
        lines = [asked] if asked is not None else []
        lines += [
            BatchLine(kind="run", index=i, task=tasks[i] if tasks else None, run=name, why=why.get(name, ""))
            for i, name in enumerate(run_names)
        ]
        write_file(self.manifest_path, b"".join(msgspec.json.encode(line) + b"\n" for line in lines), durable=durable)
        if worker_script:
            write_file(self.worker_script_path, worker_script.encode(), mode=0o700, durable=durable)
        write_file(self.script_path, script.encode(), mode=0o700, durable=durable)

    def journal(self, line: BatchLine) -> None:
        """Add a line to the manifest and wait until it is on the disk."""
        append_line(self.manifest_path, msgspec.json.encode(line), durable=True)

    def read(self) -> Batch:
        """Read the manifest."""
        runs: dict[int, str] = {}
        why: dict[int, str] = {}
        shared: dict[int, int] = {}
        last: dict[str, BatchLine] = {}
        for line in records.read_lines(self.manifest_path, BatchLine).records:
            if line.kind == "run" and line.index is not None:
                runs[line.index] = line.run
                if line.why:
                    why[line.index] = line.why
                if line.task is not None:
                    shared[line.index] = line.task
            else:
                last[line.kind] = line
        asked = last.get("asked", BatchLine(kind="asked"))
        answers = (last.get("intent"), last.get("accepted"), last.get("refused"))
        return Batch(runs, *answers, asked.asked, asked.excluded, why, shared)


class StudyFolder:
    """All runs of a study, and the batches in which they were submitted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = str(path)
        self._runs: dict[str, RunFolder] = {}

    def look(self) -> StudyFolder:
        """Return the study as it is now: each file of a run is read once, however often it is asked for."""
        return _Look(self)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.path.name

    @property
    def requests_path(self) -> Path:
        """requests.jsonl: what `submit` was asked for, a line each time that it was something else."""
        return self.path / "requests.jsonl"

    def run(self, name: str) -> RunFolder:
        """Return the folder of a run, whether it exists or not."""
        found = self._runs.get(name)
        if found is None:
            found = self._runs[name] = RunFolder(f"{self._at}/{name}")
        return found

    def batch(self, key: str) -> BatchFolder:
        """Return the folder of a batch, whether it exists or not."""
        return BatchFolder(self.path / BATCHES / key, self)

    def names(self) -> frozenset[str]:
        """Return the names of all that is in it, of whatever kind.

        Raises:
            StorageError: it cannot be listed.
        """
        try:
            return frozenset(os.listdir(self.path))
        except OSError as error:
            raise StorageError(self.path, error) from error

    def runs(self) -> list[RunFolder]:
        """List the runs: every folder that holds a spec.json."""
        at = self._at
        names = [name for name in _subfolder_names(self.path) if name != BATCHES]
        return [self.run(name) for name in names if os.path.isfile(f"{at}/{name}/spec.json")]  # noqa: PTH113

    def batches(self) -> list[BatchFolder]:
        """List the batches, oldest first."""
        found = [BatchFolder(p, self) for p in _subfolders(self.path / BATCHES)]
        return sorted(found, key=lambda batch: (_mtime(batch.script_path), batch.key))


class _Look(StudyFolder):
    """A study as it was at one moment."""

    def __init__(self, study: StudyFolder) -> None:
        super().__init__(study.path)
        self._study = study
        self._found: list[RunFolder] | None = None

    def run(self, name: str) -> RunFolder:
        """As StudyFolder."""
        found = self._runs.get(name)
        if found is None:
            found = self._runs[name] = Seen(self._study.run(name))
        return found

    def runs(self) -> list[RunFolder]:
        """As StudyFolder, listed once."""
        if self._found is None:
            self._found = super().runs()
        return self._found


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _subfolders(path: Path) -> list[Path]:
    return [path / name for name in _subfolder_names(path)]


def _subfolder_names(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            # Links are not followed: a link could lead out of the tree.
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return []


def find_studies(path: Path) -> list[StudyFolder]:
    """Find the studies at `path`: a runs folder, a study's folder, or the folder of one run.

    Raises:
        InputError: there is no such folder, or nothing of hpcpar in it.
    """
    if not is_folder(path):
        raise InputError(Problem(str(path), "is not a folder", "name a runs folder or a study's folder"))
    if is_file(path / "spec.json"):
        path = path.parent
    if _is_study(path):
        return [StudyFolder(path)]
    return [StudyFolder(p) for p in _subfolders(path) if _is_study(p)]


def _is_study(path: Path) -> bool:
    if is_folder(path / BATCHES):
        return True
    try:
        with os.scandir(path) as entries:
            folders = (e for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
            return any(is_file(Path(folder.path, "spec.json")) for folder in folders)
    except (OSError, ValueError):
        return False


def runs_root(explicit: str, profile_root: str = "") -> Path:
    """Return where runs are kept: the flag, HPCPAR_RUNS, the profile's own place, ./runs."""
    chosen = explicit or os.environ.get("HPCPAR_RUNS", "") or profile_root or "runs"
    return expand_home(os.path.expandvars(chosen)).absolute()


def state_folder() -> Path:
    """Return the user's state folder: HPCPAR_STATE, else under XDG_STATE_HOME (~/.local/state)."""
    own = os.environ.get("HPCPAR_STATE")
    if own:
        return expand_home(own).absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return expand_home(base).absolute() / "hpcpar"


class _IndexLine(Struct, kw_only=True):
    path: str
    time: float


def remember_study(study: StudyFolder) -> None:
    """Note a study in the user's index, so that status and collect find it from any folder."""
    folder = state_folder()
    make_folder(folder)
    append_line(folder / "studies.jsonl", msgspec.json.encode(_IndexLine(path=str(study.path), time=time.time())))


def is_remembered(study: StudyFolder) -> bool:
    """Say whether this user submitted the study, at this place: only then may what it was asked for be sent again."""
    path = str(study.path.absolute())
    index = {line.path for line in records.read_lines(state_folder() / "studies.jsonl", _IndexLine).records}
    # A home that is mounted under two names is one place all the same.
    alike = [other for other in index if os.path.basename(other) == study.name]  # noqa: PTH119 - there may be thousands
    return path in index or os.path.realpath(path) in {os.path.realpath(other) for other in alike}


def remembered_studies() -> Iterator[StudyFolder]:
    """Yield the studies of the index that still exist, the most recently submitted first."""
    seen = set()
    for line in reversed(records.read_lines(state_folder() / "studies.jsonl", _IndexLine).records):
        if line.path not in seen and is_folder(Path(line.path)):
            seen.add(line.path)
            yield StudyFolder(Path(line.path))
