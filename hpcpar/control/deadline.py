"""A limit for what may never end: somebody's template."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class OverdueError(Exception):
    """It took more processor time than it may."""


@contextlib.contextmanager
def processor_seconds(limit_s: float) -> Iterator[None]:
    """Let the body use so many seconds of this process's own processor time, however busy the machine is.

    Only in the main thread: elsewhere Python takes no signals, and the body is not limited.

    Raises:
        OverdueError: from within the body.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise OverdueError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
