"""Every workload computes under every strategy what one process computes, in training and in evaluation.

Tolerance as in test_parity. The evaluation comes after steps whose losses agree within it, so its loss does as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

TOLERANCE = 1e-5
STEPS = 4
SGD = {"optimizer": "sgd", "lr": 0.05}
ADAMW = {"optimizer": "adamw", "lr": 1e-3}
TEXT = {"dim": 16, "hidden": 32}
WORKLOADS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": 32, "layers": 3},
    "vgg11": {"width": 4, "classifier": 16},
    "cnn": {"width": 4},
    "conv-autoencoder": {"width": 4},
    "nbow": {**TEXT, "data": {"vocabulary": 512}},
    "seq2seq": {**TEXT, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
}
HAS_A_TENSOR_PLAN = ("mlp", "vgg11", "nbow", "seq2seq")


class Cell(NamedTuple):
    strategy: str
    options: dict[str, Any]
    ranks: int
    grad_accum: int

    def __str__(self) -> str:
        return "-".join([self.strategy, *map(str, self.options.values()), f"{self.ranks}ranks"])


CELLS = {
    "ddp": Cell("ddp", {}, 2, 2),
    "fsdp": Cell("fsdp", {}, 2, 1),
    "pp": Cell("pp", {"schedule": "1f1b"}, 2, 2),
    "hybrid": Cell("hybrid", {"mesh": "pp=2,dp=2"}, 4, 2),
    "zbv": Cell("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": "zbv", "activation_checkpointing": "full"}, 4, 4),
    "gpipe": Cell("pp", {"schedule": "gpipe"}, 4, 2),
    "sharded": Cell("hybrid", {"mesh": "dp=2,dp_shard=2"}, 4, 2),
    "tp": Cell("tp", {}, 2, 2),
    "pp-tp": Cell("hybrid", {"mesh": "pp=2,tp=2"}, 4, 2),
}
EVERYDAY = {
    ("vgg11", "tp"),
    ("cnn", "fsdp"),
    ("conv-autoencoder", "ddp"),
    ("nbow", "tp"),
    ("seq2seq", "ddp"),
    ("seq2seq", "pp"),
    ("mlp", "hybrid"),
}


def _cells() -> Iterator[Any]:
    for workload, (name, cell), optimizer in itertools.product(WORKLOADS, CELLS.items(), (SGD, ADAMW)):
        if "tp" in name.split("-") and workload not in HAS_A_TENSOR_PLAN:
            continue
        if workload == "nbow" and name in ("zbv", "gpipe"):  # four stages, three units
            continue
        everyday = (workload, name) in EVERYDAY and optimizer is SGD
        label = f"{workload}-{name}-{optimizer['optimizer']}"
        yield pytest.param(workload, cell, optimizer, marks=[] if everyday else [pytest.mark.full], id=label)


_oracles: dict[str, Any] = {}


@pytest.mark.parametrize(("workload", "cell", "optimizer"), list(_cells()))
def test_equals_one_process(pools: Any, workload: str, cell: Cell, optimizer: dict[str, Any]) -> None:
    work = {"workload": workload, "workload_options": {**WORKLOADS[workload], **optimizer}, "global_batch": 16}
    losses, scores = _run(pools, cell, work)
    expected, expected_scores = _oracle(pools, work)
    assert losses == pytest.approx(expected, abs=TOLERANCE, rel=0)
    assert scores == pytest.approx(expected_scores, abs=TOLERANCE, rel=0), "the evaluation counts every sample once"
    planted, _ = _run(pools, cell, work, plant=True)
    assert planted != pytest.approx(expected, abs=TOLERANCE, rel=0), "a wrong gradient must be seen"


DELAYED = [("localsgd", {"period": 1, "outer": "average"}), ("async", {"staleness_bound": 0})]


@pytest.mark.parametrize(("strategy", "options"), DELAYED)
def test_delayed_strategies_that_wait_for_nothing_equal_one_process(
    pools: Any, strategy: str, options: dict[str, Any]
) -> None:
    work = {"workload": "seq2seq", "workload_options": {**WORKLOADS["seq2seq"], **SGD, "max_grad_norm": 0.0}}
    work["global_batch"] = 16
    losses, scores = _run(pools, Cell(strategy, options, 2, 1), work)
    expected, expected_scores = _oracle(pools, work)
    assert losses == pytest.approx(expected, abs=TOLERANCE, rel=0)
    assert scores == pytest.approx(expected_scores, abs=TOLERANCE, rel=0)


def _oracle(pools: Any, work: dict[str, Any]) -> Any:
    key = repr(work)
    if key not in _oracles:
        _oracles[key] = _run(pools, Cell("single", {}, 1, 1), work)
    return _oracles[key]


def _run(pools: Any, cell: Cell, work: dict[str, Any], **more: Any) -> tuple[list[float], list[float]]:
    arguments = {"strategy": cell.strategy, "strategy_options": cell.options, "grad_accum": cell.grad_accum, **more}
    pool = pools(max(2, cell.ranks))
    answers = pool.run("workload_cases.train_and_evaluate", world_size=cell.ranks, steps=STEPS, **work, **arguments)
    ended = [answer for answer in answers if answer is not None]
    steps = zip(*(one.losses for one in ended), strict=True)
    losses = [sum(loss for loss, _ in ranks) / sum(weight for _, weight in ranks) for ranks in steps]
    sums = [sum(column) for column in zip(*(one.scores for one in ended), strict=True)]
    return losses, [sums[0] / sums[1], sums[2] / sums[3]]
