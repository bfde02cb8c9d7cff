"""What the login node loads is light: all strategies and workloads can be read where torch is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "sklearn", "pandas", "jinja2", "scipy", "xgboost", "joblib"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Block())
"""


def _python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + script], capture_output=True, text=True, timeout=60)


def test_strategies_and_workloads_need_no_torch_to_be_described() -> None:
    done = _python(
        """
from hpcpar import registry
from hpcpar.registry import World
for name in registry.STRATEGIES:
    strategy = registry.get_strategy(name)
    assert strategy.name == name and strategy.summary and strategy.kinds
    strategy.layout(World(1, 1), strategy.Options())
for name in registry.WORKLOADS:
    workload = registry.get_workload(name)
    assert workload.name == name and workload.summary
    kinds = {
        "script": "program",
        "llama-moe": "mixture-of-experts",
        "llama-lora": "adapters",
        "clockwork": "clockwork",
        "xgboost": "boosting",
        "estimator": "estimator",
    }
    assert workload.declare(workload.Options()).kind == kinds.get(name, "neural")
    workload.check(workload.Options())
registry.load(registry.WORKER_ENTRY)
assert "numpy" not in sys.modules, "submit loads the entry to pickle a reference to it"
import hpcpar.worker.main
assert not {"torch", "sklearn", "pandas", "jinja2"} & set(sys.modules)
"""
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_torch_is_named_with_its_extra() -> None:
    done = _python(
        """
from hpcpar.worker.team import require_torch
require_torch("strategy ddp")
"""
    )
    assert "strategy ddp: needs the package 'torch'" in done.stderr
    assert "pip install 'hpcpar[torch]'" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["one"], ["one", "two", "three"]])
def test_wrong_arguments_of_the_worker_end_with_2(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hpcpar.worker", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "usage:" in done.stderr
