"""The ways in which hpcpar touches a disk: make a private folder, write a whole file, append a whole line, open one.

Everything that must survive a kill goes through here, so that a test can kill the process at each of these boundaries.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hpcpar.errors import StorageError

_COUNT = itertools.count()
_PRIVATE = 0o600
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@contextlib.contextmanager
def _as_storage_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(path, error) from error


def make_folder(path: Path, *, exist_ok: bool = True) -> None:
    """Make a folder and its parents; what is made is private to the user (mode 700).

    Raises:
        StorageError: it cannot be made.
        FileExistsError: it is there already and `exist_ok` is False.
    """
    try:
        _make_one(path, exist_ok=exist_ok)  # mostly it is the last folder alone that is missing
    except (FileNotFoundError, NotADirectoryError):
        _make_parents(path)
        try:
            _make_one(path, exist_ok=exist_ok)
        except (FileNotFoundError, NotADirectoryError) as error:  # as below /proc
            raise StorageError(path, error) from error


def _make_parents(path: Path) -> None:
    with _as_storage_error(path):
        missing = [path, *path.parents]
        in_the_way = next((p for p in missing if p.exists()), None)
        if in_the_way is not None and not in_the_way.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{in_the_way} is not a folder")
        for parent in reversed([p for p in missing[1:] if not p.is_dir()]):
            parent.mkdir(mode=0o700, exist_ok=True)


def _make_one(path: Path, *, exist_ok: bool) -> None:
    try:
        path.mkdir(mode=0o700, exist_ok=exist_ok)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except FileExistsError as error:
        if not exist_ok:
            raise
        raise StorageError(path, NotADirectoryError(errno.ENOTDIR, f"{path} is not a folder")) from error
    except OSError as error:
        raise StorageError(path, error) from error


def write_file(path: Path | str, content: bytes, *, mode: int = _PRIVATE, durable: bool = True) -> None:
    """Write a whole file under a temporary name in its own folder, then rename it: readers see all of it or nothing.

    `durable` waits until it is on the disk. Whoever writes many files waits once for all, by `sync`.

    Raises:
        StorageError: the folder is read-only, full, or gone.
    """
    try:  # a thousand files: a context manager costs as much as a call of the system
        descriptor, temporary = _temporary(path)
        try:
            try:
                _write_all(descriptor, content)
                if mode != _PRIVATE:  # which it is from the first
                    os.fchmod(descriptor, mode)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            Path(temporary).rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise StorageError(path, error) from error


def _temporary(path: Path | str) -> tuple[int, str]:
    """Open a new file beside this one; its name is of this process and of this moment alone."""
    folder, name = os.path.split(path)
    while True:
        temporary = f"{folder}/.{name}.{os.getpid()}.{next(_COUNT)}"
        try:
            return os.open(temporary, _NEW, _PRIVATE), temporary
        except FileExistsError:  # of a process of the same number, on another machine or long ago
            continue


def sync(path: Path) -> None:
    """Wait until everything that was written to the file system of this folder is on the disk.

    A thousand small files take one wait instead of a thousand (syncfs(2), which Python does not have).

    Raises:
        StorageError: something could not be written.
    """
    import ctypes  # most commands write nothing

    with _as_storage_error(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
            if syncfs is None:  # no glibc
                os.sync()
            elif syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(descriptor)


def is_folder(path: Path) -> bool:
    """Say whether a folder is there; a path that no file system takes is none (pathlib would raise for some)."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Say whether a file is there; see `is_folder`."""
    try:
        return path.is_file()
    except OSError:
        return False


def expand_home(text: str) -> Path:
    """Put the home folder in for a leading ~; that of an unknown user stays as it is (pathlib would raise)."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def in_utf8(name: str) -> str:
    """Return a file's name as text that can be written anywhere: bytes that are not UTF-8 become escapes."""
    return name.encode(errors="backslashreplace").decode()


def open_file(path: Path | str) -> BinaryIO:
    """Open a file to read; a pipe in its place (a copied folder may hold anything) reads as empty and never waits.

    Raises:
        OSError: it cannot be read, or is a device: some never end.
    """
    return os.fdopen(_open(path)[0], "rb")


def _open(path: Path | str) -> tuple[int, int]:
    """Return a descriptor and the size of the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    found = os.fstat(descriptor)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return descriptor, found.st_size


def read_file(path: Path | str, most: int = 2**62) -> bytes:
    """Read a file, but no more than `most` bytes of it; what is no file reads as `open_file` says.

    Raises:
        OSError: it cannot be read.
    """
    descriptor, size = _open(path)
    try:
        parts = [os.read(descriptor, min(most, size + 1))]
        if len(parts[0]) == size:  # a whole file, which is what nearly every one is, whatever grows behind it
            return parts[0]
        left = most - len(parts[0])
        while parts[-1] and left > 0:
            parts.append(os.read(descriptor, min(left, 1 << 20)))
            left -= len(parts[-1])
    finally:
        os.close(descriptor)
    return b"".join(parts) if len(parts) > 2 else parts[0]


def append_line(path: Path | str, line: bytes, *, durable: bool = False) -> None:
    """Append one line in a single write; `durable` waits until it is on the disk.

    A torn line that a killed writer left behind is closed first, so that at most that line is lost.

    Raises:
        StorageError: the file cannot be written, or the disk filled up in the middle of the line.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            _write_all(descriptor, (b"\n" if torn else b"") + line.rstrip(b"\n") + b"\n")
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(path, error) from error


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
