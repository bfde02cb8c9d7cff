"""The last check before anything is written: what the nodes' Python can import."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from hpcpar.control import gate
from hpcpar.control.gate import checks
from hpcpar.control.plan import make_plan
from hpcpar.control.render import Shape, job_text, render
from hpcpar.decode import decode
from hpcpar.errors import InputError
from hpcpar.profile import ClusterProfile
from hpcpar.spec import Study

PROFILE = {
    "schema": 1,
    "name": "here",
    "description": "this machine",
    "scheduler": "local",
    "default_node_type": "cpu",
    "node_types": {"cpu": {}},
}


def _profile(**more):
    return decode(ClusterProfile, {**PROFILE, **more}, "test")


def _check(profile, strategy="ddp", *, python=sys.executable, **study):
    """Run the gate for one run that would be sent; return its warnings."""
    return gate.check(_case(profile, strategy, python=python, **study))


def _case(profile, strategy="ddp", *, python=sys.executable, **study):
    plan = make_plan(Study(workload="mlp", strategies=(strategy,), **study), profile, "test")
    shots = []
    for run in plan.runs:
        kind = profile.node_types[run.spec.identity.node_type]
        shape = Shape("key", "study", ("run",), Path("/r/s/b/k"), Path("/r/p"), python, run.resources, profile, kind)
        script = render(job_text(shape), profile)
        shots.append(checks.Shot(script.text, script.template, 1, run.resources, kind))
    return checks.Case(plan, profile, python, tuple(shots))


def _interpreter(tmp_path, body):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return str(python)


def test_another_interpreter_that_has_everything_passes(tmp_path):
    profile = _profile()
    _check(profile, python=_interpreter(tmp_path, f'exec "{sys.executable}" "$@"'))


def test_another_interpreter_that_lacks_packages_is_refused_with_their_names(tmp_path):
    profile = _profile()
    # -S leaves out the installed packages: an interpreter that has nothing but the standard library.
    python = _interpreter(tmp_path, f'exec "{sys.executable}" -I -S "$@"')
    with pytest.raises(InputError, match=r"lacks: hpcpar torch numpy sklearn"):
        _check(profile, python=python)


def test_an_interpreter_that_is_not_there_is_refused(tmp_path):
    profile = _profile()
    with pytest.raises(InputError, match="cannot be started"):
        _check(profile, python=str(tmp_path / "nosuch"))


def test_the_current_folder_does_not_stand_in_for_an_installed_package(tmp_path, monkeypatch):
    for name in ("hpcpar", "torch", "numpy", "sklearn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    profile = _profile()
    python = _interpreter(tmp_path, f'exec "{sys.executable}" -S "$@"')
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(InputError, match="lacks"):
        _check(profile, python=python)


def test_an_interpreter_that_modules_bring_is_left_to_the_job():
    profile = _profile(environment={"modules": ["python"]})
    _check(profile, python="python-of-the-module")


def test_a_missing_package_of_this_interpreter_gives_the_install_line(monkeypatch):
    monkeypatch.setitem(checks.EXTRA_PACKAGES, "torch", ("no_such_package_anywhere",))
    profile = _profile()
    with pytest.raises(InputError, match=r"pip install 'hpcpar\[torch\]'"):
        _check(profile, python=sys.executable)


def _without(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))


@pytest.mark.parametrize("strategy", ["deepspeed-zero", "deepspeed-tp", "deepspeed-pp"])
def test_without_deepspeed_its_strategies_are_refused_with_the_line_that_installs_it(monkeypatch, strategy):
    _without(monkeypatch, "deepspeed")
    profile = _profile()
    with pytest.raises(InputError) as caught:
        _check(profile, strategy, python=sys.executable)
    (problem,) = [problem for problem in caught.value.problems if "deepspeed" in problem.what]
    assert problem.what == "needs the package 'deepspeed', which is not installed"
    assert problem.fix == "pip install 'hpcpar[deepspeed]'"


def test_without_horovod_it_is_refused_with_the_version_that_fits(monkeypatch, tmp_path):
    _without(monkeypatch, "horovod")
    profile = _profile()
    with pytest.raises(InputError) as caught:
        _check(profile, "horovod", python=sys.executable)
    (problem,) = [problem for problem in caught.value.problems if "horovod" in problem.what]
    assert problem.fix.startswith("hpcpar cannot install Horovod: version 0.28.1 (the newest) works with torch 2.13")
    assert "pip install" not in problem.fix
    python = _interpreter(tmp_path, f'exec "{sys.executable}" -I -S "$@"')
    with pytest.raises(InputError) as caught:
        _check(profile, "horovod", python=python)
    assert "pip install 'hpcpar[torch]'; hpcpar cannot install Horovod" in caught.value.problems[0].fix
