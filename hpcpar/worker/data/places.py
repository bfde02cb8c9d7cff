"""Whether what a person names can be read at all; what it must be, each kind of data says itself."""

from __future__ import annotations

import os

from hpcpar.errors import Problem
from hpcpar.storage import expand_home


def unreadable(text: str, key: str) -> list[Problem]:
    """Say that there is something of that name which cannot be read; [] where it can, or where nothing is there.

    Args:
        text: the path as it was given; "" is none.
        key: where it was named.
    """
    path = expand_home(text)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a NUL in it
        return [_problem(text, key, getattr(error, "strerror", None) or str(error))]
    inside = os.X_OK if path.is_dir() else 0
    return [] if not text or os.access(path, os.R_OK | inside) else [_problem(text, key, "Permission denied")]


def _problem(text: str, key: str, why: str) -> Problem:
    return Problem(key, f"'{text}' cannot be read: {why}", "name what the jobs' user may read")
