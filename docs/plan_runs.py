"""What the parts of make_plan.py share: small studies on this machine, and what became of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hpcpar.control.forecast.ask import Shapes, ask
from hpcpar.runs import RunFolder, find_studies
from hpcpar.shapes import Case, Model
from hpcpar.spec import Identity, RunSpec


def submit(folder: Path, name: str, words: Sequence[str], variables: Mapping[str, str] = {}) -> None:
    """Run a study on this machine, one run after the other; what is done there already is not run again."""
    command = [sys.executable, "-m", "hpcpar", "submit", "--cluster", "local", "--wait", "--no-predict"]
    command += ["--name", name, "--runs", str(folder), *words]
    own = {"HPCPAR_STATE": str(folder.parent / "state")}  # a queue of its own
    subprocess.run(command, check=True, env={**os.environ, **own, **variables}, stderr=subprocess.DEVNULL)


def finished(folder: Path) -> Iterator[tuple[str, RunFolder, RunSpec]]:
    """Yield the study, the folder and the plan of every run.

    Raises:
        RuntimeError: one has no result.
    """
    for study in find_studies(folder):
        for run in study.runs():
            spec = run.spec()
            if spec is None or run.record() is None:
                raise RuntimeError(f"{run.path} has no result: see its logs")
            yield study.path.name, run, spec


def traced(identity: Identity, cases: Sequence[Case]) -> tuple[Shapes, list[Model]]:
    """Return the shapes of a run's model in these cases."""
    shapes = ask(identity.workload, identity.workload_options, cases)
    assert isinstance(shapes, Shapes), shapes
    models = [shapes.models[case] for case in cases]
    for model in models:
        assert isinstance(model, Model), model
    return shapes, [model for model in models if isinstance(model, Model)]


def options_of(identity: Identity, usual: Mapping[str, object]) -> str:
    """Return the strategy's options that are not the usual ones, as words."""
    options = identity.strategy_options
    return " ".join(f"{name}={options[name]}" for name, value in usual.items() if options.get(name, value) != value)
