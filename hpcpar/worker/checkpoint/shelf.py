"""The checkpoints of a run on the disk.

RUN/checkpoints/step-0000000120/    a checkpoint: manifest.json and the ranks' files; there only when it is whole
RUN/checkpoints/writing-...         one that is being written, or that a kill interrupted
RUN/checkpoints/aside-...           one that must not be used; kept for a person to look at
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from hpcpar import storage
from hpcpar.errors import StorageError
from hpcpar.worker.checkpoint.manifest import DamagedError, Manifest, seal

MANIFEST = "manifest.json"
_WHOLE = re.compile(r"step-\d{10}", re.ASCII)
_LARGEST_MANIFEST = 1 << 30


class Shelf:
    """Rank 0 writes folders and removes them; every rank writes and reads its own files inside."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self) -> list[int]:
        """List the whole checkpoints by step, the newest first. Links are not followed."""
        return sorted((int(name.removeprefix("step-")) for name in self._folders(_WHOLE)), reverse=True)

    def folder(self, step: int) -> Path:
        """Return where the checkpoint of a step is, or would be."""
        return self.path / f"step-{step:010d}"

    def writing(self, step: int, attempt: str) -> Path:
        """Return where it is written."""
        return self.path / f"writing-{step:010d}.{attempt}"

    def sealed_manifest(self, step: int) -> bytes:
        """Read the bytes of a manifest.

        Raises:
            DamagedError: there is none.
        """
        try:
            with storage.open_file(self.folder(step) / MANIFEST) as file:
                return file.read(_LARGEST_MANIFEST)
        except OSError as error:
            raise DamagedError(f"its manifest cannot be read: {error.strerror}") from error

    def check(self, manifest: Manifest, names: Iterable[str]) -> None:
        """Read files of a checkpoint whole, and compare them with its manifest.

        Raises:
            DamagedError: one is missing or not what was written.
        """
        folder = self.folder(manifest.origin.step)
        for name in names:
            wanted = manifest.files[name]
            try:
                with storage.open_file(folder / name) as file:
                    size = os.fstat(file.fileno()).st_size
                    digest = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
            except OSError as error:
                raise DamagedError(f"{name} cannot be read: {error.strerror}") from error
            if size != wanted.num_bytes:
                raise DamagedError(f"{name} has {size} bytes, {wanted.num_bytes} were written")
            if digest != wanted.sha256:
                raise DamagedError(f"{name} does not have the digest that was written with it")

    def publish(self, writing: Path, manifest: Manifest, keep: int) -> None:
        """Give a checkpoint whose files are on the disk its manifest and its name, then remove all but the last `keep`.

        Raises:
            StorageError: the disk says no.
        """
        storage.write_file(writing / MANIFEST, seal(manifest))
        folder = self.folder(manifest.origin.step)
        try:
            _sync_folder(writing)
            if folder.exists():
                shutil.rmtree(folder)
            writing.rename(folder)
            _sync_folder(self.path)
        except OSError as error:
            raise StorageError(folder, error) from error
        self.remove_all_but(keep)

    def remove_all_but(self, keep: int) -> None:
        """Remove the oldest checkpoints. Under another name first: a half-removed one must not look whole."""
        for step in self.steps()[keep:]:
            doomed = self.writing(step, "removed")
            with contextlib.suppress(OSError):
                self.folder(step).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def put_aside(self, step: int, attempt: str) -> None:
        """Take a checkpoint that must not be used out of the way."""
        with contextlib.suppress(OSError):
            self.folder(step).rename(self.path / f"aside-{step:010d}.{attempt}")

    def sweep(self) -> None:
        """Remove what killed writers left behind; no attempt of this run writes at the same time."""
        for name in self._folders(re.compile(r"writing-\d{10}\..*", re.ASCII)):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def _folders(self, pattern: re.Pattern[str]) -> Iterator[str]:
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            yield from [e.name for e in entries if pattern.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
