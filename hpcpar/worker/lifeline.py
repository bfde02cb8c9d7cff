"""Processes that must not outlive the one that started them (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent ends."""


def tie_to(parent: int) -> Callable[[], None]:
    """Return what a child calls before it becomes a program, so that it is killed when `parent` ends."""

    def tie() -> None:
        # SIGKILL: a parent that was killed -9 can tell nobody to hurry up, and must leave no orphan.
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(1)

    return tie


def die_with_parent(number: signal.Signals) -> None:
    """Have the system send this process a signal when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
