"""End at once when the scheduler says so, even while the main thread is stuck inside a collective.

A Python signal handler runs only between two bytecodes of the main thread, which a hanging all-reduce never reaches.
The interpreter's C handler, though, writes the signal's number to the wake-up descriptor at once: a thread reads it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading

from hpcpar.worker.journal import Journal

WATCHED = (signal.SIGTERM, signal.SIGINT)


def end_on_signal(journal: Journal) -> None:
    """On SIGTERM or SIGINT write the last words of this rank and exit with 128 + the signal, without any collective.

    Only the job's first rank says "killed" in the shared journal; the others leave nothing, as they did not fail.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    for number in WATCHED:
        signal.signal(number, _do_nothing)
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_watch, args=(receiver, sender, journal), daemon=True, name="signals").start()


def _do_nothing(number: int, frame: object) -> None:
    """Stand in for the default action; the watching thread acts."""


def _forget() -> None:
    # A forked child (a data loader's worker) shares the descriptor: its own signals must not end its parent.
    signal.set_wakeup_fd(-1)
    for number in WATCHED:
        signal.signal(number, signal.SIG_DFL)


def _watch(receiver: socket.socket, sender: socket.socket, journal: Journal) -> None:
    assert sender.fileno() >= 0, "held here so that the descriptor stays open"
    while received := receiver.recv(1):
        number = received[0]
        if number in WATCHED:
            journal.killed(signal.Signals(number).name)
            os._exit(128 + number)
