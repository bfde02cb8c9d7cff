"""What is going on: the runs' own words merged with the scheduler's, as rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from hpcpar.control import local_queue
from hpcpar.control.again import requests
from hpcpar.control.reconcile import reconcile
from hpcpar.outcome import UNREADABLE, Live, Outcome, decide
from hpcpar.records import Step
from hpcpar.runs import RunFolder, StudyFolder

STATES = ("planned", "submitted", "queued", "running", "done", "failed", UNREADABLE)
FINAL = frozenset({"done", "failed", "planned", UNREADABLE})


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
    """Wall time since its first rank began (running) or until its end (done, failed); None where a clock was set."""
    left_s: float | None
    """Of what runs: about how long its remaining steps take, at the pace of the last ones."""
    starts: float | None
    """Of what waits: when the scheduler expects it to start, in seconds since the epoch; None: it does not say."""
    job_id: str
    attempts: int
    folder: str


class Status(Struct, kw_only=True):
    """All rows, counts by state and by cause, and what stood in the way of knowing more."""

    rows: list[StatusRow]
    counts: dict[str, int]
    causes: dict[str, int]
    """Failed runs by cause, the most frequent first."""
    unreadable: list[str]
    """Runs that no row can be made of: their spec.json is gone, damaged, or may not be read. As STUDY/RUN."""
    trouble: list[str]
    sent: list[str] = []
    """What the studies' policies sent again, a sentence for each run; and what had waited for room in the queue."""
    waiting: int = 0
    """Planned runs that wait for room in the queue (`submit --max-queued`); a look sends what there is room for."""

    @property
    def finished(self) -> bool:
        """True when nothing is under way."""
        return not self.waiting and all(row.state in FINAL for row in self.rows)


def get_status(studies: Iterable[StudyFolder], *, policy: bool = False) -> Status:
    """Look at every run of these studies: one squeue, at most one sacct for 200 array ids, none when all have ended.

    `policy`: also send again what the studies' policies say, and what waited for room in the queue; then look again.
    """
    studies = list(studies)
    status = _look(studies)
    sent, trouble = _send(studies, status) if policy else ([], [])
    if sent:
        status = _look(studies)
    status.sent, status.trouble = sent, [*status.trouble, *trouble]
    _held_back(studies, status)
    return status


def _send(studies: list[StudyFolder], status: Status) -> tuple[list[str], list[str]]:
    """Send what may be sent without being asked; return sentences on that, and what stood in the way."""
    sent: list[str] = []
    trouble: list[str] = []
    failed = [RunFolder(Path(row.folder)) for row in status.rows if row.state == "failed"]
    with_policy = [study for study in studies if failed and requests.has_policy(study)]
    # What renders scripts is slow to import, and mostly not needed.
    if with_policy:
        from hpcpar.control.again.policy import apply

        applied = apply(with_policy, failed)
        sent, trouble = sent + applied.sent, trouble + applied.trouble
    waiting = _held_back(studies, status)
    if waiting:
        from hpcpar.control.again.waiting import send

        applied = send(waiting)
        sent, trouble = sent + applied.sent, trouble + applied.trouble
    return sent, trouble


def _held_back(studies: list[StudyFolder], status: Status) -> list[Path]:
    """Find the runs that wait for room in the queue, and say so in their rows."""
    found: list[Path] = []
    for study in studies:
        planned = {row.run: row for row in status.rows if row.state == "planned" and row.study == study.name}
        most = requests.max_queued(study) if planned else 0
        if not most:
            continue
        sent = {name for batch in study.batches() for name in batch.read().runs.values()}
        for name in planned.keys() - sent:  # what was sent and refused is a person's turn
            planned[name].note = f"waits for room in the queue: at most {most} jobs"
            found.append(study.path / name)
    status.waiting = len(found)
    return found


def _look(studies: list[StudyFolder]) -> Status:
    studies = [study.look() for study in studies]
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
        causes=dict(Counter(row.cause for row in rows if row.state == "failed").most_common()),
        unreadable=unreadable,
        trouble=[*knowledge.trouble, *_queue_trouble(rows, knowledge.live), *_unreadable_trouble(unreadable)],
    )


def _row(study: StudyFolder, folder: RunFolder, live: Live | None) -> StatusRow | None:
    spec = folder.spec()
    if spec is None:
        return None
    found = decide(folder, live)
    identity = spec.identity
    submissions = folder.submissions()
    done = found.state == "done"
    last = [] if done or not found.attempt else folder.last_steps(found.attempt)
    step = max((one.step for one in last), default=0)
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
        step=identity.steps if done else step,
        steps=identity.steps,
        elapsed_s=_elapsed_s(found, live),
        left_s=_left_s(last, identity.steps - step) if found.state == "running" and spec.declares_steps else None,
        starts=live.starts if live is not None and found.state == "queued" else None,
        job_id=next((line.job_id for line in reversed(submissions) if line.kind == "submitted"), ""),
        attempts=found.num_attempts,
        folder=str(folder.path),
    )


def _elapsed_s(found: Outcome, live: Live | None) -> float | None:
    if found.state in ("planned", "queued", "submitted", UNREADABLE):
        return None
    if live is not None and live.elapsed_s is not None:
        return live.elapsed_s if live.elapsed_s >= 0 else None
    return found._replace(ended=time.time() if found.ended is None else found.ended).wall_s


def _left_s(last: list[Step], num_left: int) -> float | None:
    """Return how long the steps that are left take at the pace of the last ones: no evaluation, no checkpoint."""
    if not last:
        return None
    pace_s = sum(step.time_s + step.data_s for step in last) / len(last)
    return pace_s * max(0, num_left)


def _unreadable_trouble(names: list[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"not shown, because spec.json is gone, damaged, or may not be read: {shown}; `hpcpar collect` lists them"]


def _queue_trouble(rows: list[StatusRow], live: dict[Path, Live]) -> list[str]:
    waiting = (row for row in rows if row.state == "queued" and row.job_id.startswith(local_queue.JOB_PREFIX))
    mine = any(Path(row.folder) not in live or not live[Path(row.folder)].queue for row in waiting)
    if mine and not local_queue.is_alive():
        return [
            "the local queue has stopped before its end (its process was killed, or the machine was restarted); "
            "`hpcpar resume` goes on where it stopped"
        ]
    return []
