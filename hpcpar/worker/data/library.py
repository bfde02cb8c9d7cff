"""The sources of Python's standard library: real text that is on every machine where hpcpar runs."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

from hpcpar.errors import RunError
from hpcpar.records import Cause


def folder() -> Path:
    """Return where the standard library lies."""
    return Path(sysconfig.get_paths()["stdlib"])


def sources(package: str = "") -> list[Path]:
    """Return the sources of a package, or those that are no package's, in sorted order.

    Raises:
        RunError: this Python lacks the package (a cause data).
    """
    found = sorted((folder() / package).rglob("*.py") if package else folder().glob("*.py"))
    if not found:
        raise RunError(Cause.DATA, f"this Python's standard library lacks the sources of '{package}' in {folder()}")
    return found


def read(files: Sequence[Path]) -> bytes:
    """Return the content of files, one after the other.

    Raises:
        RunError: one cannot be read (a cause data).
    """
    content = bytearray()
    for file in files:
        try:
            content += file.read_bytes()
        except OSError as error:
            raise RunError(Cause.DATA, f"cannot read {file}: {error.strerror}") from error
    return bytes(content)
