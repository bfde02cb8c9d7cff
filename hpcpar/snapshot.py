"""The user's code as it was at submission: one copy a content, in the study's folder, which the queued job then runs.

    STUDY/code/DIGEST/...     the folder of the program's or workload's file, code and small settings only

Whoever edits a file while a job waits changes the next submission, not this one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hpcpar.errors import InputError, Problem, StorageError
from hpcpar.storage import is_file, is_folder, make_folder
from hpcpar.units import human_memory

CODE = "code"
"""The study's folder of snapshots."""
FOLDER_VARIABLE = "HPCPAR_CODE"
"""Set by the job script: the snapshot's folder."""
ROOT_VARIABLE = "HPCPAR_CODE_ROOT"
"""Set by the job script: the folder of which it is a copy."""
MAX_FILES = 2000
MAX_BYTES = 50 * 1024**2
_SUFFIXES = frozenset(".py .pyi .pyx .so .cu .cpp .c .h .hpp .sh .toml .yaml .yml .json .cfg .ini .txt .j2".split())
"""What programs are made of, and the settings that they read beside themselves. Data is not copied."""
_PROGRAMS = frozenset(".py .pyi .pyx .so .cu .cpp .c .h .hpp .sh".split())
_SECRET = re.compile(r"secret|credential|passw|api[-_]?key|token(?!i[sz])|id_(?:rsa|dsa|ecdsa|ed25519)", re.IGNORECASE)
_SKIPPED = {"__pycache__", "node_modules", "site-packages"}
_PYTHON = re.compile(r"python[0-9.]*|bash|sh")


class Snapshot(NamedTuple):
    """What would be copied."""

    root: Path
    files: tuple[tuple[str, bytes, bool], ...]
    """Path below the root, content, executable or not; in order."""
    left_out: tuple[str, ...]
    """Files whose names say that they hold a secret."""

    @property
    def digest(self) -> str:
        """SHA-256 over names, contents and the executable bit."""
        return _digest((name, hashlib.sha256(content).digest(), runs) for name, content, runs in self.files)

    def folder(self, study: Path) -> Path:
        """Return where it lies in a study's folder."""
        return study / CODE / self.digest[:16]


# ---------------------------------------------------------------- on the login node


def entry(words: Sequence[str]) -> int | None:
    """Return which word of a command line is the program's file: itself, or the first after python or bash.

    None where that is not certain (`python -m module`, a program on PATH).
    """
    if not words:
        return None
    if not _PYTHON.fullmatch(Path(words[0]).name):
        return 0 if os.sep in words[0] else None
    for i, word in enumerate(words[1:], 1):
        if word in ("-m", "-c") or (word.startswith("-") and word[1:2] in ("m", "c")):
            return None
        if not word.startswith("-"):
            return i
    return None


def take(file: Path, runs_root: Path) -> Snapshot:
    """Read the folder of a file, without anything hidden, linked, or under the runs folder.

    Raises:
        InputError: there is too much of it, or it cannot be read.
    """
    file = file.absolute()
    files: list[tuple[str, bytes, bool]] = []
    left_out: list[str] = []
    size = 0
    # The file itself whatever it is called: the user named it.
    for path in sorted({file, *_walk(file.parent, runs_root.absolute())}):
        name = path.relative_to(file.parent).as_posix()
        if path != file and path.suffix not in _PROGRAMS and _SECRET.search(path.name):
            left_out.append(name)
            continue
        try:
            size += path.stat().st_size
            if size > MAX_BYTES or len(files) == MAX_FILES:
                raise InputError(_too_much(file.parent))
            files.append((name, path.read_bytes(), os.access(path, os.X_OK)))
        except OSError as error:
            raise InputError(Problem(str(path), f"cannot read: {error.strerror}", "or --no-snapshot")) from error
    return Snapshot(file.parent, tuple(files), tuple(left_out))


def _walk(folder: Path, runs_root: Path) -> Iterator[Path]:
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        place = Path(here)
        folders[:] = sorted(name for name in folders if _belongs(place / name, runs_root))
        found += [place / name for name in sorted(names) if not name.startswith(".")]
        if len(found) > 50 * MAX_FILES:
            raise InputError(_too_much(folder))
    for path in found:
        # A link could lead anywhere; a pipe would be waited for.
        if path.suffix in _SUFFIXES and not path.is_symlink() and path.is_file():
            yield path


def _belongs(folder: Path, runs_root: Path) -> bool:
    hidden = folder.name.startswith(".") or folder.name in _SKIPPED
    foreign = folder == runs_root or is_file(folder / "pyvenv.cfg") or is_folder(folder / "conda-meta")
    return not (hidden or foreign or folder.is_symlink())


def _too_much(folder: Path) -> Problem:
    what = f"holds more than {MAX_FILES} files or {human_memory(MAX_BYTES)} of code: too much to copy"
    fix = "keep the program in a folder of its own; or --no-snapshot, and then edits change jobs that wait"
    return Problem(str(folder), what, fix)


def store(snapshot: Snapshot, study: Path) -> None:
    """Write it into the study's folder, unless the same content lies there already.

    Raises:
        StorageError: it cannot be written.
    """
    place = snapshot.folder(study)
    if is_folder(place):
        return
    make_folder(place.parent)
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=place.parent))
        for name, content, runs in snapshot.files:
            path = temporary / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o700 if runs else 0o600)
        temporary.rename(place)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if not is_folder(place):  # else another submit was faster, with the same content
            raise StorageError(place, error) from error


def stored(root: Path, study: Path, digest: str) -> Snapshot:
    """Read back the snapshot with this digest, the copy of `root`.

    Raises:
        InputError: it is gone, or is not what it was.
    """
    place = study / CODE / digest[:16]
    what = "is gone" if not is_folder(place) else "is not what it was when the run was sent"
    with suppress(OSError, InputError):
        found = Snapshot(root, tuple(_contents(place)), ())
        if found.digest == digest:
            return found
    fix = "`hpcpar resubmit --new-code` takes your files as they are now"
    raise InputError(Problem(str(place), f"the run's copy of your code {what}", fix))


def _contents(place: Path) -> Iterator[tuple[str, bytes, bool]]:
    """Yield the files of a snapshot; whoever changed the folder may have put anything there."""
    size = 0
    for count, path in enumerate(sorted(path for path in place.rglob("*") if "__pycache__" not in path.parts)):
        if path.is_symlink() or not path.is_file():
            continue
        size += path.stat().st_size
        if size > MAX_BYTES or count > 2 * MAX_FILES:
            raise InputError(_too_much(place))
        yield path.relative_to(place).as_posix(), path.read_bytes(), os.access(path, os.X_OK)


# ---------------------------------------------------------------- in the job


def here() -> Path | None:
    """Return the snapshot that the job script names, or None."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    return Path(folder) if folder else None


def found(path: Path) -> Path:
    """Return the file's copy in the job's snapshot; the file itself where there is none."""
    folder, root = here(), os.environ.get(ROOT_VARIABLE, "")
    if folder is not None and root:
        with suppress(ValueError):
            copy = folder / path.absolute().relative_to(root)
            if is_file(copy):
                return copy
    return path


def located(words: Sequence[str], folder: str) -> list[str]:
    """Return a command line whose program is taken from the snapshot; its other words stay, and so does the folder."""
    place = entry(words)
    if place is None or here() is None:
        return list(words)
    path = Path(folder or os.curdir, words[place])
    copy = found(path)
    return [*words[:place], str(copy), *words[place + 1 :]] if copy != path else list(words)


def digest_of(folder: Path) -> str:
    """Return the digest of a snapshot as it lies on the disk, read again.

    Raises:
        OSError: it cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return _digest(
        (path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).digest(), os.access(path, os.X_OK))
        for path in paths
    )


def _digest(files: Iterator[tuple[str, bytes, bool]]) -> str:
    whole = hashlib.sha256()
    for name, content, runs in sorted(files):
        whole.update(len(name.encode(errors="surrogateescape")).to_bytes(8, "big"))
        whole.update(name.encode(errors="surrogateescape") + content + bytes([runs]))
    return whole.hexdigest()
