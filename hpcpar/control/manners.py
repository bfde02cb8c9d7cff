"""How often this user's hpcpar processes call the scheduler: all of them share one bucket of calls.

Sites count the calls of a user, and some answer none for a while when there are too many. A bucket holds CALLS and gets
PER_SECOND more each second; who finds it empty waits. It is a file in the user's state folder, under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from hpcpar.errors import HpcparError
from hpcpar.runs import state_folder
from hpcpar.storage import make_folder

CALLS, PER_SECOND = 100.0, 2.0
"""What nobody notices who looks at his runs, and what stops a loop that calls without end. HPCPAR_CALLS says otherwise:
"40,0.07" is a bucket of 40 that gets 4 more a minute."""
_LONGEST_S = 60.0


def take_turn() -> None:
    """Take a call out of the bucket; wait until there is one."""
    calls, per_second = _rules()
    end = time.monotonic() + _LONGEST_S
    while (wait_s := _try(calls, per_second)) > 0 and time.monotonic() < end:
        time.sleep(min(wait_s, end - time.monotonic(), 5.0) if end > time.monotonic() else 0.0)


def _rules() -> tuple[float, float]:
    words = os.environ.get("HPCPAR_CALLS", "").split(",")
    with contextlib.suppress(ValueError):
        calls, per_second = (float(word) for word in words)
        if calls >= 1 and per_second > 0:
            return calls, per_second
    return CALLS, PER_SECOND


def _try(calls: float, per_second: float) -> float:
    """Take a call; return 0, or in how many seconds there will be one. Where nothing can be kept nobody waits."""
    try:
        folder = state_folder()
        make_folder(folder)
        descriptor = os.open(folder / "calls", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except (OSError, HpcparError):
        return 0.0
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        with contextlib.suppress(OSError):  # no locks on this file system: two may take the same call
            fcntl.flock(file, fcntl.LOCK_EX)
        left, now = _left(file.read(100), calls, per_second), time.time()
        if left < 1:
            return (1 - left) / per_second
        with contextlib.suppress(OSError):
            file.seek(0)
            file.write(b"%-20.3f %-20.3f\n" % (left - 1, now))
    return 0.0


def _left(content: bytes, calls: float, per_second: float) -> float:
    """Return how many calls there are, given what was left and when; anything else is a full bucket."""
    try:
        left, since = (float(word) for word in content.split())
    except ValueError:
        return calls
    passed = time.time() - since
    # The clock of another login node may be ahead of this one.
    return min(calls, max(0.0, left) + max(0.0, passed) * per_second) if passed > -60 else calls
