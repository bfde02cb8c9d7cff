"""The last check before anything is written: what the nodes' Python can import."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from hpcpar.control import gate
from hpcpar.control.plan import make_plan
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


def _plan(profile, strategy="ddp"):
    return make_plan(Study(workload="mlp", strategies=(strategy,)), profile, "test")


def _interpreter(tmp_path, body):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    return str(python)


def test_another_interpreter_that_has_everything_passes(tmp_path):
    profile = _profile()
    gate.check(_plan(profile), profile, _interpreter(tmp_path, f'exec "{sys.executable}" "$@"'))


def test_another_interpreter_that_lacks_packages_is_refused_with_their_names(tmp_path):
    profile = _profile()
    # -S leaves out the installed packages: an interpreter that has nothing but the standard library.
    python = _interpreter(tmp_path, f'exec "{sys.executable}" -I -S "$@"')
    with pytest.raises(InputError, match=r"lacks: hpcpar torch numpy sklearn"):
        gate.check(_plan(profile), profile, python)


def test_an_interpreter_that_is_not_there_is_refused(tmp_path):
    profile = _profile()
    with pytest.raises(InputError, match="cannot be started"):
        gate.check(_plan(profile), profile, str(tmp_path / "nosuch"))


def test_the_current_folder_does_not_stand_in_for_an_installed_package(tmp_path, monkeypatch):
    for name in ("hpcpar", "torch", "numpy", "sklearn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    profile = _profile()
    python = _interpreter(tmp_path, f'exec "{sys.executable}" -S "$@"')
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(InputError, match="lacks"):
        gate.check(_plan(profile), profile, python)


def test_an_interpreter_that_modules_bring_is_left_to_the_job():
    profile = _profile(environment={"modules": ["python"]})
    gate.check(_plan(profile), profile, "python-of-the-module")


def test_a_missing_package_of_this_interpreter_gives_the_install_line(monkeypatch):
    monkeypatch.setitem(gate.EXTRA_PACKAGES, "torch", ("no_such_package_anywhere",))
    profile = _profile()
    with pytest.raises(InputError, match=r"pip install 'hpcpar\[torch\]'"):
        gate.check(_plan(profile), profile, sys.executable)


def _without(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))


@pytest.mark.parametrize("strategy", ["deepspeed-zero", "deepspeed-tp", "deepspeed-pp"])
def test_without_deepspeed_its_strategies_are_refused_with_the_line_that_installs_it(monkeypatch, strategy):
    _without(monkeypatch, "deepspeed")
    profile = _profile()
    with pytest.raises(InputError) as caught:
        gate.check(_plan(profile, strategy), profile, sys.executable)
    (problem,) = [problem for problem in caught.value.problems if "deepspeed" in problem.what]
    assert problem.what == "needs the package 'deepspeed', which is not installed"
    assert problem.fix == "pip install 'hpcpar[deepspeed]'"


def test_without_horovod_it_is_refused_with_the_version_that_fits(monkeypatch, tmp_path):
    _without(monkeypatch, "horovod")
    profile = _profile()
    with pytest.raises(InputError) as caught:
        gate.check(_plan(profile, "horovod"), profile, sys.executable)
    (problem,) = [problem for problem in caught.value.problems if "horovod" in problem.what]
    assert problem.fix.startswith("hpcpar cannot install Horovod: version 0.28.1 (the newest) works with torch 2.13")
    assert "pip install" not in problem.fix
    python = _interpreter(tmp_path, f'exec "{sys.executable}" -I -S "$@"')
    with pytest.raises(InputError) as caught:
        gate.check(_plan(profile, "horovod"), profile, python)
    assert "pip install 'hpcpar[torch]'; hpcpar cannot install Horovod" in caught.value.problems[0].fix
