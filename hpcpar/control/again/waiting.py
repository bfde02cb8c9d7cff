"""Runs that wait because their user keeps to a number of jobs in the queue (`submit --max-queued`).

`submit` writes what they are and sends as many as there is room for; `status` sends more when there is room again.
There is no daemon: where nobody looks, nothing more is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hpcpar.control.again import resubmit
from hpcpar.control.again.policy import Applied
from hpcpar.control.submit import Wish, submit
from hpcpar.errors import HpcparError
from hpcpar.runs import RunFolder


def send(runs: Iterable[Path]) -> Applied:
    """Send as many of these waiting runs as there is room for."""
    try:
        candidates, trouble = resubmit.look([RunFolder(path) for path in runs])
        wishes = {one.run.path: Wish("there was room in the queue") for one in candidates}
        sent = []
        for prepared in resubmit.prepare_again(candidates, wishes):
            submit(prepared)
            count = sum(len(batch.runs) for batch in prepared.batches)
            sent.append(f"{prepared.study.name}: {count} more sent, {len(prepared.held)} wait for room in the queue")
        return Applied(sent, trouble)
    except HpcparError as error:
        return Applied([], [f"what waits for room in the queue could not be sent: {error}"])
