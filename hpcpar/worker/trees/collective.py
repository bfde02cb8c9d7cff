"""XGBoost's own distributed training: one worker a rank, each with its rows; rank 0 runs the tracker.

Source: XGBoost 3.2, python-package/xgboost/tracker.py and collective.py. Workers are numbered by their task ids, which
are our ranks, so that XGBoost's rank 0 is ours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from hpcpar.registry import Scores, StepResult, Trainer
from hpcpar.worker.boosting import BoostingWorkload
from hpcpar.worker.context import JobContext
from hpcpar.worker.trees import grow

COLLECTIVE_TIMEOUT_S = 300
"""How long a worker waits for another one inside XGBoost's collective before it gives up (XGBoost's own default)."""


class CollectiveGrower:
    """A grower inside the collective; leaves it when all went well."""

    synchronous = True

    def __init__(self, inner: grow.Grower, leave: Callable[[], None]) -> None:
        self._inner, self._leave = inner, leave
        self._sound = True
        self.facts = inner.facts

    @property
    def is_over(self) -> bool:
        """Whether early stopping says so; the metric is that of all ranks, and so is the answer."""
        return self._inner.is_over

    def batch(self, step: int) -> int:
        """Return the round's number."""
        return self._inner.batch(step)

    def step(self, batch: int) -> StepResult:
        """Add a tree, together with the other ranks."""
        self._sound = False
        with told_as_network():
            result = self._inner.step(batch)
        self._sound = True
        return result

    def evaluate(self) -> Scores:
        """Score this rank's evaluation rows, together with the other ranks."""
        self._sound = False
        with told_as_network():
            scores = self._inner.evaluate()
        self._sound = True
        return scores

    def close(self) -> None:
        """Leave the collective. After a failure nobody says goodbye: a peer may never answer."""
        self._inner.close()
        if self._sound:
            self._leave()


def build(context: JobContext, workload: BoostingWorkload) -> Trainer:
    """Join the other ranks and build the trainer.

    Raises:
        RunError: the workers did not find each other, or no GPU can be used though one is asked for.
    """
    settings = grow.parameters(context, workload)
    if context.info.world_size == 1:
        return grow.Grower(settings, workload, grow.load_shard(context, workload, settings))
    leave = _join(context)
    with told_as_network():
        return CollectiveGrower(grow.Grower(settings, workload, grow.load_shard(context, workload, settings)), leave)


def _join(context: JobContext) -> Callable[[], None]:
    import xgboost
    from xgboost.tracker import RabitTracker

    meeting, info = context.meeting, context.info
    tracker: Any = None
    if info.rank == 0:
        patience_s = int(meeting.patience_s)
        tracker = RabitTracker(info.world_size, meeting.place.host, sortby="task", timeout=patience_s)
        tracker.start()
        meeting.share("xgboost-tracker", msgspec.json.encode(tracker.worker_args()))
    place: dict[str, Any] = msgspec.json.decode(meeting.learn("xgboost-tracker"))
    communicator = xgboost.collective.CommunicatorContext(
        **place, dmlc_task_id=f"{info.rank:08d}", dmlc_timeout=COLLECTIVE_TIMEOUT_S
    )
    with told_as_network():
        communicator.__enter__()

    def leave() -> None:
        communicator.__exit__(None, None, None)
        if tracker is not None:
            tracker.wait_for()

    return leave


@contextlib.contextmanager
def told_as_network() -> Iterator[None]:
    """Turn XGBoost's words for a peer that is gone into a cause of their own; they come as one type of error."""
    from xgboost.core import XGBoostError

    try:
        yield
    except XGBoostError as error:
        if "rabit" in str(error) or "collective" in str(error):
            raise ConnectionError(f"XGBoost lost another worker: {_last_line(str(error))}") from error
        raise


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "Stack trace" not in line]
    return lines[0] if lines else "no message"
