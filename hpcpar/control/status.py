"""What is going on: the runs' own words merged with the scheduler's, as rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from hpcpar.control import local_queue
from hpcpar.control.reconcile import reconcile
from hpcpar.outcome import decide
from hpcpar.runs import RunFolder, StudyFolder

STATES = ("planned", "submitted", "queued", "running", "done", "failed")
FINAL = frozenset({"done", "failed", "planned"})


class StatusRow(Struct, kw_only=True):
    """One run as `hpcpar status` shows it (and as `--json` prints it)."""

    study: str
    run: str
    workload: str
    strategy: str
    mesh: str
    nodes: int
    repeat: int
    state: str
    cause: str
    note: str
    """Why it failed, or why it waits, in words."""
    step: int
    steps: int
    elapsed_s: float | None
    """Wall time since its first rank began (running) or until its end (done, failed)."""
    job_id: str
    attempts: int
    folder: str


class Status(Struct, kw_only=True):
    """All rows, counts by state, and what stood in the way of knowing more."""

    rows: list[StatusRow]
    counts: dict[str, int]
    unreadable: list[str]
    """Runs that no row can be made of: their spec.json is gone or damaged. As STUDY/RUN."""
    trouble: list[str]

    @property
    def finished(self) -> bool:
        """True when nothing is under way."""
        return all(row.state in FINAL for row in self.rows)


def get_status(studies: Iterable[StudyFolder]) -> Status:
    """Look at every run of these studies: one squeue, at most one sacct for 200 array ids, none when all have ended."""
    studies = list(studies)
    knowledge = reconcile(studies)
    rows: list[StatusRow] = []
    unreadable: list[str] = []
    for study in studies:
        planned = {name for batch in study.batches() for name in batch.read().runs.values()}
        found = {folder.path.name: _row(study, folder, knowledge.live.get(folder.path)) for folder in study.runs()}
        rows += [row for row in found.values() if row is not None]
        unreadable += sorted(f"{study.name}/{name}" for name in planned | found.keys() if found.get(name) is None)
    rows.sort(key=lambda row: (row.study, row.strategy, row.nodes, row.mesh, row.repeat, row.run))
    counts = Counter(row.state for row in rows)
    return Status(
        rows=rows,
        counts={state: counts[state] for state in STATES if counts[state]},
        unreadable=unreadable,
        trouble=[*knowledge.trouble, *_queue_trouble(rows), *_unreadable_trouble(unreadable)],
    )


def _row(study: StudyFolder, folder: RunFolder, live: Any) -> StatusRow | None:
    spec = folder.spec()
    if spec is None:
        return None
    found = decide(folder, live)
    identity = spec.identity
    submissions = folder.submissions()
    elapsed = live.elapsed_s if live is not None and live.elapsed_s is not None else None
    if elapsed is None and found.started is not None:
        elapsed = (found.ended or time.time()) - found.started
    done = found.state == "done"
    return StatusRow(
        study=study.name,
        run=spec.run_name,
        workload=identity.workload,
        strategy=identity.strategy,
        mesh=identity.mesh.label(),
        nodes=identity.nodes,
        repeat=identity.repeat,
        state=found.state,
        cause="" if found.cause is None or done else str(found.cause),
        note=found.message,
        step=identity.steps if done else (folder.last_step(found.attempt) if found.attempt else 0),
        steps=identity.steps,
        elapsed_s=None if found.state in ("planned", "queued", "submitted") else elapsed,
        job_id=submissions[-1].job_id if submissions else "",
        attempts=found.num_attempts,
        folder=str(folder.path),
    )


def _unreadable_trouble(names: list[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"not shown, because spec.json is gone or damaged: {shown}; `hpcpar collect` lists them"]


def _queue_trouble(rows: list[StatusRow]) -> list[str]:
    waiting = any(row.state == "queued" and row.job_id.startswith(local_queue.JOB_PREFIX) for row in rows)
    if waiting and not local_queue.is_alive():
        return [
            "the local queue has stopped before its end (its process was killed, or the machine was restarted); "
            "`hpcpar resume` goes on where it stopped"
        ]
    return []
