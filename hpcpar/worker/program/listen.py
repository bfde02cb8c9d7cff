"""The pipe on which a program says that a step is over; the other end is `hpcpar.log`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec
from msgspec import Struct


class Line(Struct, frozen=True):
    """What a program says at the end of a step."""

    time: float
    """time.monotonic(), which is the same clock in all processes of a machine."""
    loss: float | None = None
    samples: float | None = None


class Ear:
    """A named pipe in a folder of its own, and a thread that reads it. Nothing that arrives can end the worker."""

    def __init__(self, heard: Callable[[int], None]) -> None:
        self.lines: list[Line] = []
        self.rejected = 0
        self._heard = heard
        self._folder = Path(tempfile.mkdtemp(prefix="hpcpar-"))
        self.path = self._folder / "log"
        os.mkfifo(self.path, 0o600)
        # Open for reading and writing: it does not end when a writer leaves, and another may come.
        self._pipe = os.open(self.path, os.O_RDWR)
        self._thread = threading.Thread(target=self._listen, daemon=True, name="log")

    def __enter__(self) -> Ear:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The last word is our own: what the program wrote before it has then been read.
        os.write(self._pipe, b"\n\0\n")
        self._thread.join(10)
        os.close(self._pipe)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self) -> None:
        with open(os.dup(self._pipe), "rb", buffering=0) as raw:  # noqa: PTH123  a descriptor, not a path
            rest = b""
            while True:
                *whole, rest = (rest + raw.read(65536)).split(b"\n")
                for content in whole:
                    if content == b"\0":
                        return
                    self._take(content)

    def _take(self, content: bytes) -> None:
        if not content:
            return
        try:
            self.lines.append(msgspec.json.decode(content, type=Line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.rejected += 1
            return
        with contextlib.suppress(Exception):  # progress is a courtesy
            self._heard(len(self.lines))
