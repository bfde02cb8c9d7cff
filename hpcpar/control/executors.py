"""submitit executors whose script is our rendered template and whose submission loses nothing.

submitit's own order is sbatch first, then each pickle renamed to its job id, and it submits arrays through a plain
SlurmExecutor: both lose jobs or templates (tests/contract shows each). One step is overridden here: all that a job
needs is on disk before the scheduler is asked, nothing depends on a job id, and a journal says how far it came.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from submitit.core.utils import DelayedSubmission
from submitit.local.local import LocalExecutor
from submitit.slurm.slurm import SlurmExecutor

from hpcpar import registry
from hpcpar.control import local_queue, slurm
from hpcpar.errors import HpcparError, NoSchedulerError, StorageError, UnansweredError
from hpcpar.runs import BatchFolder, BatchLine


class _OneBatch:
    """The overridden step: one batch folder, one call of the scheduler, however many runs."""

    batch_folder: BatchFolder
    script_sha256: str
    begun: float
    gate: str
    """Whether the runs were checked: "passed" or "skipped"."""
    code: str
    """Digest of the snapshot of the user's code, or ""."""
    queue = ""
    """Folder of the local queue; "" where it is Slurm that is asked."""
    scheduler: str
    submit: Any
    batch: Any
    job_class: Any
    folder: Any

    def enqueue(self) -> str:
        """Hand the batch's script to the scheduler; return the job id."""
        raise NotImplementedError

    def submit_all(self) -> str:
        """Submit the whole batch; return the job id of the job or array.

        One submission in submitit's words, however many runs: the payload is the same for all of them.

        Raises:
            SchedulerError, NoSchedulerError: it was refused; the journal says so.
            UnansweredError: nobody knows; the intent stays open.
        """
        entry = registry.load(registry.WORKER_ENTRY)
        with self.batch():
            self.submit(entry)
        accepted = self.batch_folder.read().accepted
        assert accepted is not None  # the step below journals it or raises
        return accepted.job_id

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[Any]:
        # A reference to the worker's entry, never state; the script gives every task its run folder.
        try:
            DelayedSubmission(delayed_submissions[0].function).dump(self.batch_folder.payload_path)
        except OSError as error:
            raise StorageError(self.batch_folder.payload_path, error) from error
        self._journal("intent", begun=self.begun, **self._what())
        try:
            job_id = self.enqueue()
        except UnansweredError:
            raise  # an intent without an answer: `status` looks the job up, and nothing is sent twice meanwhile
        except HpcparError as error:
            self._journal("refused", error=str(error))
            raise
        self._journal("accepted", job_id=job_id, **self._what())
        return [self.job_class(folder=self.folder, job_id=job_id)]

    def _what(self) -> dict[str, str]:
        return {"script_sha256": self.script_sha256, "gate": self.gate, "code_sha256": self.code}

    def _journal(self, kind: Any, **fields: Any) -> None:
        line = BatchLine(
            kind=kind,
            time=time.time(),
            scheduler=self.scheduler,
            host=socket.gethostname(),
            pid=os.getpid(),
            queue=self.queue,
            **fields,
        )
        self.batch_folder.journal(line)


class SlurmBatchExecutor(_OneBatch, SlurmExecutor):
    """Submit a batch with one sbatch of the rendered script."""

    scheduler = "slurm"

    def __init__(
        self, batch_folder: BatchFolder, script_sha256: str, begun: float, gate: str = "", code: str = ""
    ) -> None:
        for command in ("sbatch", "srun"):  # submitit's own message for a missing srun is a RuntimeError
            if not slurm.have(command):
                raise NoSchedulerError(command)
        super().__init__(batch_folder.path)
        self.batch_folder, self.script_sha256, self.begun = batch_folder, script_sha256, begun
        self.gate, self.code = gate, code

    def enqueue(self) -> str:
        """Call sbatch."""
        return slurm.sbatch(str(self.batch_folder.script_path))


class LocalBatchExecutor(_OneBatch, LocalExecutor):
    """Put a batch into this machine's queue and see to it that the queue is worked off."""

    scheduler = "local"

    def __init__(
        self, batch_folder: BatchFolder, script_sha256: str, begun: float, gate: str = "", code: str = ""
    ) -> None:
        super().__init__(batch_folder.path)
        self.queue = str(local_queue.folder())
        self.batch_folder, self.script_sha256, self.begun = batch_folder, script_sha256, begun
        self.gate, self.code = gate, code

    def enqueue(self) -> str:
        """Write the queue's entry."""
        return local_queue.enqueue(self.batch_folder)


EXECUTORS: dict[str, type[_OneBatch]] = {"slurm": SlurmBatchExecutor, "local": LocalBatchExecutor}
