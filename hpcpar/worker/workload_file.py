"""Import a workload from a file of the user's own: in the job, or in a child that describes it. Nowhere else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from hpcpar.errors import RunError
from hpcpar.records import Cause


def load(path: str, name: str) -> Any:
    """Run the file and return the object of that name. Modules beside the file can be imported by it.

    Raises:
        RunError: there is no such file or object.
    """
    sys.path.insert(0, str(Path(path).parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise RunError(Cause.LAUNCH, f"the workload's file '{path}' does not exist here")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that its classes find their module
    spec.loader.exec_module(module)
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise RunError(Cause.LAUNCH, f"'{path}' has no '{name}'") from error
