"""The wings stay apart, and what must start fast loads nothing heavy."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from records_oracle import ideal

from hpcpar import registry

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = [
    "torch",
    "pandas",
    "numpy",
    "scipy",
    "dask",
    "distributed",
    "xgboost",
    "deepspeed",
    "horovod",
    "matplotlib",
    "sklearn",
]
LATE = ["jinja2", "submitit", "rich"]


def python(code, *arguments, **environment):
    """Run code in a fresh interpreter and return what it prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------- contracts


def lint(folder):
    """Hold the contracts of folder/pyproject.toml against the package beside it."""
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def contracts():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_all_contracts_hold():
    done = lint(REPOSITORY)
    assert done.returncode == 0, done.stdout
    assert f"{len(contracts())} kept, 0 broken" in done.stdout


PLANTED = {
    "control/plan.py": "import pandas\nfrom hpcpar.worker import rank\n",
    "worker/rank.py": "import jinja2\n",
    "analysis/text/numbers.py": "import torch\n",
    "units.py": "from hpcpar.control import safe\n",
}
"""A violation of every contract."""


def test_a_planted_violation_breaks_every_contract(tmp_path):
    shutil.copytree(REPOSITORY / "hpcpar", tmp_path / "hpcpar", ignore=shutil.ignore_patterns("__pycache__", "_data"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for name, line in PLANTED.items():
        path = tmp_path / "hpcpar" / name
        path.write_text(path.read_text() + line)
    done = lint(tmp_path)
    assert done.returncode != 0
    broken = {line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if line.endswith(" BROKEN")}
    assert broken == {contract["name"] for contract in contracts()}


def test_no_module_has_a_name_that_says_nothing_or_that_is_a_librarys():
    names = {path.stem for path in (REPOSITORY / "hpcpar").rglob("*.py")}
    assert not names & {"utils", "common", "helpers", "base", "misc", *HEAVY, *LATE}


# ---------------------------------------------------------------- light imports

LOADED = """
import json, sys
from hpcpar.cli import main
code = main(sys.argv[1:])
print()
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (["--help"], [*HEAVY, *LATE]),
        (["submit", "--help"], [*HEAVY, *LATE]),
        (
            ["submit", "--cluster", "perlmutter", "--strategy", "hybrid", "--nodes", "4", "--dry-run"],
            [*HEAVY, "submitit"],
        ),
        (["status"], [*HEAVY, "submitit"]),
    ],
    ids=["help", "submit help", "submit dry-run", "status"],
)
def test_what_must_be_fast_loads_nothing_heavy(isolation, arguments, forbidden):
    ideal(nodes=(1,), repeats=10).write(isolation / "runs")
    code, loaded = python(LOADED, *arguments)
    assert code == 0
    assert not set(loaded) & set(forbidden)


def test_importing_the_command_line_loads_no_verb():
    code = 'import sys, json, hpcpar.cli; print(json.dumps([m for m in sys.modules if m.startswith("hpcpar.cli.")]))'
    assert python(code) == []


BLOCKED = """
import json, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
import msgspec
from hpcpar import registry
described = []
for name in registry.STRATEGIES:
    strategy = registry.get_strategy(name)
    one_rank = name in ("single", "layerwise", "dp", "threads", "processes")
    mesh = strategy.layout(registry.World(1, 1 if one_rank else 2), strategy.Options())
    described.append([name, strategy.name, mesh.world_size])
for name in registry.WORKLOADS:
    workload = registry.get_workload(name)
    described.append([name, workload.name, workload.declare(workload.Options()).num_units])
print(json.dumps(described))
"""


def test_everything_registered_describes_itself_without_torch():
    described = python(BLOCKED, ",".join(HEAVY))
    assert [name for name, _, _ in described] == [*registry.STRATEGIES, *registry.WORKLOADS]
    assert all(name == own and size >= 1 for name, own, size in described)


def test_no_module_of_the_worker_loads_deepspeed_or_horovod_before_a_strategy_builds():
    pytest.importorskip("torch")
    code = """
import importlib, json, pkgutil, sys
import hpcpar.worker
names = [module.name for module in pkgutil.walk_packages(hpcpar.worker.__path__, "hpcpar.worker.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
assert "hpcpar.worker.deepspeed_engine.zero" in names and "hpcpar.worker.horovod_ring" in names
print(json.dumps(sorted({"deepspeed", "horovod"} & set(sys.modules))))
"""
    assert python(code) == []


def test_the_workers_entry_loads_without_torch():
    code = """
import json, sys
sys.modules["torch"] = None
from hpcpar import registry
import hpcpar.worker.main
print(json.dumps(registry.load(registry.WORKER_ENTRY).__module__))
"""
    assert python(code) == "hpcpar.worker.entry"


def test_importing_the_package_loads_nothing_and_collect_loads_what_it_needs():
    code = """
import json, sys
import hpcpar
light = sorted({name.partition(".")[0] for name in sys.modules})
try:
    hpcpar.collect("nowhere")
except Exception as error:
    print(json.dumps([light, type(error).__name__, sorted(n for n in sys.modules if n.startswith("torch"))[:1]]))
"""
    light, error, torch = python(code)
    assert not set(light) & {*HEAVY, *LATE, "msgspec", "click"}
    assert (error, torch) == ("InputError", [])
