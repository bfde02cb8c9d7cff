"""What a program of the user's own may call to be timed from inside: `hpcpar.log(loss=..., samples=...)`.

Without dependencies, and without effect outside of a job of hpcpar: the same program runs anywhere.
"""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "HPCPAR_LOG"
"""The environment variable that names the pipe to the worker of this rank."""


class _Channel:
    """The pipe, once it is open."""

    pipe: int | None = None
    off = False


def log(*, loss: Any = None, samples: float | None = None) -> None:
    """Say that a step (one update) of this rank is over. Call it once a step, on every rank.

    Args:
        loss: the mean loss of this rank's samples; a number, or a tensor with one number (which is then waited for).
        samples: how many samples this rank has processed in this step.
    """
    path = os.environ.get(VARIABLE)
    if not path or _Channel.off:
        return
    import json
    import time

    line = {
        "time": time.monotonic(),
        "loss": None if loss is None else float(loss),
        "samples": None if samples is None else float(samples),
    }
    try:
        # At most PIPE_BUF bytes in one write: whole even where several processes write.
        os.write(_open(path), json.dumps(line).encode() + b"\n")
    except OSError:  # nobody reads: the job is over, or the variable is left over from another one
        _Channel.off = True


def _open(path: str) -> int:
    if _Channel.pipe is None:
        # Without O_NONBLOCK it would wait for a reader; with it, it fails where there is none.
        _Channel.pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.set_blocking(_Channel.pipe, True)
    return _Channel.pipe
