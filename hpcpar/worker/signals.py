"""End when the scheduler says so: at once, or, in a run with checkpoints, once the training has saved.

At once means even while the main thread is stuck inside a collective. A Python signal handler runs only between two
bytecodes of the main thread, which a hanging all-reduce never reaches. The interpreter's C handler, though, writes the
signal's number to the wake-up descriptor at once: a thread reads it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading

from hpcpar.worker.journal import Journal
from hpcpar.worker.rank import RankInfo

BEFORE_LIMIT = signal.SIGUSR1
"""What the job script asks Slurm to send before the time limit."""
_PATIENCE_S = {"slurm": 20.0, "local": 1.0}
"""How long after SIGTERM a run may save: less than what is left until SIGKILL (Slurm's KillWait is 30 s, the local
launcher's grace 2 s)."""


class Stop:
    """Set by the watching thread, read by the training loop."""

    signal_name = ""
    """The signal that asks the run to save and leave."""


def end_on_signal(journal: Journal, info: RankInfo) -> Stop:
    """On SIGTERM or SIGINT write the last words of this rank and exit with 128 + the signal, without any collective.

    A run with checkpoints is told by SIGUSR1 and SIGTERM through what is returned; after SIGTERM it is ended all the
    same when it has not left in time. Only the job's first rank says "killed" in the shared journal; the others leave
    nothing, as they did not fail.
    """
    stop = Stop()
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    watched = [signal.SIGTERM, signal.SIGINT]
    watched += [BEFORE_LIMIT] if info.checkpoint is not None else []
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    for number in watched:
        signal.signal(number, _do_nothing)

    def forget() -> None:
        # A forked child (a data loader's worker) shares the descriptor: its own signals must not end its parent.
        signal.set_wakeup_fd(-1)
        for number in watched:
            signal.signal(number, signal.SIG_DFL)

    def end(number: int) -> None:
        journal.killed(signal.Signals(number).name)
        os._exit(128 + number)

    def watch() -> None:
        assert sender.fileno() >= 0, "held here so that the descriptor stays open"
        while received := receiver.recv(1):
            number = received[0]
            if number not in watched:
                continue
            if info.checkpoint is None or number == signal.SIGINT:
                end(number)
            if number == signal.SIGTERM:
                last = threading.Timer(_PATIENCE_S[info.scheduler], end, [number])
                last.daemon = True
                last.start()
            stop.signal_name = signal.Signals(number).name

    os.register_at_fork(after_in_child=forget)
    threading.Thread(target=watch, daemon=True, name="signals").start()
    return stop


def _do_nothing(number: int, frame: object) -> None:
    """Stand in for the default action; the watching thread acts."""
