"""Where cluster profiles, job templates and studies are found.

Order: an explicit path, each folder of HPCPAR_PATH, the user's configuration folder, what hpcpar ships. The current
folder is not searched: a file that happens to lie there must not change what is submitted.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from hpcpar.errors import InputError, Problem, nearest
from hpcpar.storage import expand_home, is_file, is_folder

Kind = Literal["clusters", "jobs", "templates"]
_SUFFIX = {"clusters": ".toml", "jobs": ".toml", "templates": ".j2"}


def builtin_folder(kind: Kind) -> Path:
    """Return the folder that hpcpar ships: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "_data" / kind
    return inside if inside.is_dir() else package.parent / kind


def search_path(kind: Kind) -> list[Path]:
    """Return the folders that are searched for `kind`, first hit wins."""
    extra = [expand_home(p) for p in os.environ.get("HPCPAR_PATH", "").split(os.pathsep) if p]
    config = expand_home(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "hpcpar"
    return [*(folder / kind for folder in extra), config / kind, builtin_folder(kind)]


def find(kind: Kind, name: str) -> Path:
    """Find a file by name (without its ending) or by an explicit path.

    Raises:
        InputError: there is none; with the nearest name.
    """
    asked = name
    if os.sep in name or name.endswith(_SUFFIX[kind]):
        path = expand_home(name)
        if is_file(path):
            return path.absolute()
        if os.sep in name:
            stem = path.name.removesuffix(_SUFFIX[kind])
            hint = f"hpcpar brings one called '{stem}': name it so" if stem in available(kind) else ""
            raise InputError(Problem(f"{kind[:-1]} '{name}'", "there is no such file", hint))
        name = name.removesuffix(_SUFFIX[kind])
    for folder in search_path(kind):
        path = folder / (name + _SUFFIX[kind])
        if is_file(path):
            return path.absolute()
    what = "is not known" if name == asked else "there is no such file here, and none that hpcpar brings"
    raise InputError(Problem(f"{kind[:-1]} '{asked}'", what, nearest(name, available(kind))))


def available(kind: Kind) -> dict[str, Path]:
    """Return every name that can be found, with the file that wins."""
    found: dict[str, Path] = {}
    for folder in search_path(kind):
        if is_folder(folder):
            for path in sorted(folder.glob("*" + _SUFFIX[kind])):
                found.setdefault(path.name.removesuffix(_SUFFIX[kind]), path)
    return dict(sorted(found.items()))
