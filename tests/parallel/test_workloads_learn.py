"""Every workload with an evaluation learns: what docs/workloads.md promises, and what each pair of its matrix does."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pool import Pool

from hpcpar import registry
from hpcpar.decode import nested

DOCS = Path(__file__).parents[2] / "docs"
TRAINING_S = 840.0
"""Of the longest training on two busy processors."""
_PROMISE = re.compile(
    r"^\| `([\w-]+)` \| (defaults|`[^`]+`) \| (\d+) \| ([a-z ]+) (0\.\d+)(?:, loss ([\d.]+))? \|$", re.MULTILINE
)


class Promise(NamedTuple):
    """A row of the page."""

    workload: str
    options: str
    steps: str
    metric: str
    least: str
    most_loss: str
    """"" where the page promises none."""


def _promises() -> list[Any]:
    rows = [Promise(*row) for row in _PROMISE.findall((DOCS / "workloads.md").read_text(encoding="utf-8"))]
    everyday = ("mlp", "nbow")
    marks = {row.workload: [] if row.workload in everyday else [pytest.mark.full] for row in rows}
    return [pytest.param(row, id=row.workload, marks=marks[row.workload]) for row in rows]


def test_every_workload_that_can_be_evaluated_has_a_promise(pools: Any) -> None:
    trained = [name for name in registry.WORKLOADS if name not in OTHERWISE or name == "llama-moe"]
    able = {name for name in trained if pools(2).run("workload_cases.has_evaluation", workload=name)[0]}
    assert able == {promise.id for promise in _promises()}


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Ranks that may take minutes, as some of these trainings do."""
    pool = Pool(2, tmp_path_factory.mktemp("pool"), patience_s=TRAINING_S)
    yield pool
    pool.close()


@pytest.mark.timeout(TRAINING_S + 60)
@pytest.mark.parametrize("promise", _promises())
def test_it_reaches_what_is_promised(patient: Pool, promise: Promise) -> None:
    set_options = [] if promise.options == "defaults" else promise.options.strip("`").split()
    options = nested(dict(word.split("=") for word in set_options))
    arguments = {"workload": promise.workload, "workload_options": options, "steps": int(promise.steps)}
    learned = patient.run("workload_cases.learn", **arguments)[0]
    assert learned.metric.replace("_", " ") == promise.metric
    assert learned.before < float(promise.least) <= learned.value
    assert learned.loss <= float(promise.most_loss or "inf")


TINY: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 16, "layers": 3},
    "vgg11": {"width": 4, "classifier": 16},
    "cnn": {"width": 4},
    "conv-autoencoder": {"width": 4},
    "nbow": {"dim": 16, "data": {"vocabulary": 64}},
    "seq2seq": {"dim": 16, "hidden": 32},
    "llama-tiny": {"dim": 32, "layers": 4, "hidden": 32},
    "llama-lora": {"dim": 32, "layers": 4, "hidden": 32},
}
OTHERWISE = {
    "script": "test_program_end_to_end",
    "clockwork": "a strategy of its own",
    "llama-moe": "test_experts",
    "xgboost": "test_boosting, what it reaches too",
    "estimator": "test_estimators",
    **{f"llama-{size}": "llama-tiny in another shape" for size in ("15m", "160m", "1b", "7b", "8b")},
}
"""Workloads that are run by other tests, or by no test in their own size, and where."""
ELSEWHERE = ("deepspeed-zero", "deepspeed-tp", "deepspeed-pp", "horovod")
"""Strategies that have tests of their own with some of the workloads, and take minutes to build."""
ONE_PROCESS = ("single", "layerwise", "dp")


def _matrix() -> dict[tuple[str, str], str]:
    spec = importlib.util.spec_from_file_location("make_workload_matrix", DOCS / "make_workload_matrix.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--check"]) == 0, "run python docs/make_workload_matrix.py"
    cells: dict[tuple[str, str], str] = module.matrix()
    return cells


def test_the_matrix_of_the_page_is_that_of_the_plan() -> None:
    cells = _matrix()
    assert set(cells) == {(w, s) for w in registry.WORKLOADS for s in registry.STRATEGIES}
    assert cells["mlp", "cp"] == "cp: the workload has no sequence that could be cut"


@pytest.mark.full
@pytest.mark.parametrize("workload", TINY)
def test_what_the_matrix_says_runs_does_run(pools: Any, workload: str) -> None:
    for (name, strategy), refused in _matrix().items():
        if name != workload or refused or strategy in ELSEWHERE:
            continue
        ranks = 1 if strategy in ONE_PROCESS else 4 if strategy == "hybrid" else 2
        arguments = {"strategy": strategy, "strategy_options": {}, "workload": workload, "grad_accum": 4}
        answers = pools(max(2, ranks)).run(
            "workload_cases.run_a_little",
            world_size=ranks,
            workload_options=TINY[workload],
            global_batch=16,
            steps=2,
            **arguments,
        )
        assert any(answer == 2 for answer in answers), strategy


def test_every_neural_workload_is_run_with_a_tiny_shape() -> None:
    assert {*TINY, *OTHERWISE} == set(registry.WORKLOADS)
