"""hpcpar: which parallel strategy, on how many nodes, at what price."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from hpcpar.log import log

__all__ = ["collect", "log"]
__version__ = "0.1.0"


def collect(
    path: str | PathLike[str],
    *more: str | PathLike[str],
    against: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
    **options: Any,
) -> Any:
    """Read the runs below these folders and return their tables, as `hpcpar collect` does; no scheduler is asked.

    Args:
        path: a runs folder, a study's folder, or the folder of one run.
        more: further ones.
        against: runs with which these are compared.
        options: `baseline`, `reference`, `warmup_steps`, `efficiency_target`, `margin`, `target_loss`; see
            hpcpar.analysis.collect.

    Returns:
        hpcpar.analysis.results.Results: DataFrames `runs`, `scaling`, `verdicts`, `laws`, `sizeup` and `findings`, and
        `to_markdown()`, `save(folder)` and the like. A notebook shows its tables.

    Raises:
        InputError: there is no run, or an option is wrong.
    """
    # By name: importing hpcpar stays light, and the wings stay strangers to the package that holds them.
    from importlib import import_module
    from pathlib import Path

    others = [against] if isinstance(against, (str, PathLike)) else against
    module = import_module("hpcpar.analysis.collect")
    return module.collect([Path(p) for p in (path, *more)], against=[Path(p) for p in others], **options)
