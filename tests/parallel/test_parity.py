"""Every strategy computes what one process computes: the loss of every step agrees within 1e-5.

Tolerance: fp32 sums taken in another order differ by some 1e-7 a step (measured: 5e-7 after 60 steps); 1e-5 leaves room
for that and for nothing else, as the planted error in one gradient of one rank shows in every cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

TOLERANCE = 1e-5
STEPS = 6

MLP = {"hidden": 32, "layers": 7}
LLAMA = {"dim": 32, "heads": 8, "kv_heads": 4, "hidden": 48, "layers": 6, "sequence": 16}
SGD = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9}
ADAMW = {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01}


class Cell(NamedTuple):
    strategy: str
    options: dict[str, Any]
    ranks: int
    grad_accum: int
    full: bool = False

    def __str__(self) -> str:
        words = "-".join(_word(*item) for item in self.options.items())
        return f"{self.strategy}{'-' + words if words else ''}-{self.ranks}ranks-accum{self.grad_accum}"


def _word(name: str, value: Any) -> str:
    return (name if value is True else f"{name}{value}" if name not in ("mesh", "schedule") else value).replace("=", "")


AGAIN = {"activation_checkpointing": "full"}
SELECTIVE = {"activation_checkpointing": "selective"}
COMPILED = {"compile": True}
SPLIT = ["zero-bubble", "zbv", "dualpipev"]
"""Schedules that compute the gradients of weights later than those of inputs."""
CELLS = [
    Cell("ddp", {}, 2, 1),
    Cell("ddp", {}, 2, 2),
    Cell("ddp", {"static_graph": True}, 2, 1),
    Cell("ddp", {"static_graph": True}, 2, 2),
    Cell("ddp", {"bucket_mb": 0.01}, 4, 1, full=True),
    Cell("ddp", {}, 4, 2, full=True),
    Cell("pp", {"schedule": "1f1b"}, 2, 2),
    Cell("pp", {"schedule": "gpipe"}, 2, 4),
    Cell("pp", {"schedule": "gpipe"}, 2, 1),
    Cell("pp", {"schedule": "1f1b"}, 4, 4),
    Cell("pp", {"schedule": "gpipe"}, 4, 4, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp=2", "schedule": "1f1b"}, 4, 2),
    Cell("hybrid", {"mesh": "pp=2,dp=2", "schedule": "gpipe"}, 4, 4),
    Cell("hybrid", {"mesh": "dp=-1"}, 2, 2),
    Cell("pp", {"schedule": "looped-bfs"}, 2, 1),
    Cell("pp", {"schedule": "looped-bfs", "virtual_stages": 4}, 2, 2),
    Cell("pp", {"schedule": "interleaved-1f1b"}, 2, 4),
    Cell("pp", {"schedule": "zero-bubble"}, 2, 2),
    Cell("pp", {"schedule": "zero-bubble", "virtual_stages": 1}, 2, 4),
    Cell("pp", {"schedule": "zbv"}, 2, 2),
    Cell("pp", {"schedule": "dualpipev"}, 2, 4),
    Cell("pp", {"schedule": "interleaved-1f1b"}, 4, 4, full=True),
    Cell("pp", {"schedule": "looped-bfs"}, 4, 2, full=True),
    Cell("pp", {"schedule": "zero-bubble"}, 4, 8, full=True),
    Cell("pp", {"schedule": "zbv"}, 4, 4, full=True),
    Cell("pp", {"schedule": "dualpipev"}, 4, 8, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp=2", "schedule": "zero-bubble"}, 4, 2),
    Cell("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": "interleaved-1f1b"}, 4, 2),
    Cell("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": "looped-bfs"}, 4, 2, full=True),
    *(Cell("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": name}, 4, 4) for name in SPLIT),
    *(Cell("hybrid", {"mesh": "pp=2,tp=2", "schedule": name}, 4, 4, full=True) for name in SPLIT),
    Cell("fsdp", {}, 2, 1),
    Cell("fsdp", {"reshard_after_forward": False}, 2, 2),
    Cell("fsdp", {"cpu_offload": True}, 2, 2),
    Cell("fsdp", {}, 4, 2, full=True),
    Cell("fsdp", {"shard_size": 2}, 4, 1, full=True),
    Cell("fsdp", {"shard_size": 2}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "dp_shard=2,dp=2"}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": "1f1b"}, 4, 2),
    Cell("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": "gpipe"}, 4, 4),
    Cell("tp", {}, 2, 1),
    Cell("tp", {}, 4, 2, full=True),
    Cell("tp", {"degree": 2}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "dp_shard=2,tp=2"}, 4, 2),
    Cell("hybrid", {"mesh": "pp=2,tp=2"}, 4, 2),
    Cell("single", AGAIN, 1, 2),
    Cell("ddp", AGAIN, 2, 2),
    Cell("fsdp", AGAIN, 2, 2),
    Cell("tp", {"degree": 2, **AGAIN}, 4, 2, full=True),
    Cell("pp", {"schedule": "1f1b", **AGAIN}, 2, 2),
    Cell("hybrid", {"mesh": "dp_shard=2,tp=2", **AGAIN}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": "interleaved-1f1b", **AGAIN}, 4, 2, full=True),
    Cell("single", SELECTIVE, 1, 2),
    Cell("ddp", SELECTIVE, 2, 2, full=True),
    Cell("fsdp", SELECTIVE, 2, 2),
    Cell("tp", {"degree": 2, **SELECTIVE}, 4, 2, full=True),
    Cell("pp", {"schedule": "interleaved-1f1b", **SELECTIVE}, 2, 2),
    Cell("pp", {"schedule": "zbv", **AGAIN}, 2, 4),
    *(Cell("pp", {"schedule": name, **AGAIN}, 2, 4, full=True) for name in ("zero-bubble", "dualpipev")),
    Cell("single", COMPILED, 1, 2),
    Cell("single", {**COMPILED, **AGAIN}, 1, 2, full=True),
    Cell("single", {**COMPILED, **SELECTIVE}, 1, 2, full=True),
    Cell("ddp", COMPILED, 2, 2, full=True),
    Cell("fsdp", COMPILED, 2, 2, full=True),
    Cell("fsdp", {**COMPILED, **SELECTIVE}, 2, 2, full=True),
    Cell("tp", {"degree": 2, **COMPILED}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "dp_shard=2,tp=2", **COMPILED}, 4, 2, full=True),
    Cell("pp", {"schedule": "1f1b", **COMPILED}, 2, 2, full=True),
    Cell("pp", {"schedule": "interleaved-1f1b", **COMPILED}, 2, 2, full=True),
    Cell("single", {}, 1, 4),
    Cell("fsdp", {}, 1, 2),
    Cell("ddp", {}, 1, 2),
    Cell("pp", {}, 1, 2),
    Cell("hybrid", {}, 1, 2),
]
SEQUENCE = {"sequence_parallel": True}
LOSS = {"sequence_parallel": True, "loss_parallel": True}
LLAMA_CELLS = [
    Cell("tp", SEQUENCE, 2, 2),
    Cell("tp", LOSS, 2, 2),
    Cell("tp", LOSS, 4, 1, full=True),
    Cell("tp", {"degree": 2, **SEQUENCE}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "dp_shard=2,tp=2", **SEQUENCE}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "pp=2,tp=2", **LOSS}, 4, 2, full=True),
    Cell("cp", {}, 2, 1),
    Cell("cp", {}, 4, 2, full=True),
    Cell("cp", {"degree": 2}, 4, 2),
    Cell("cp", AGAIN, 2, 2),
    Cell("tp", {**LOSS, **AGAIN}, 2, 2, full=True),
    Cell("tp", {**LOSS, **SELECTIVE}, 2, 2, full=True),
    Cell("tp", {**LOSS, **COMPILED}, 2, 2, full=True),
    Cell("cp", SELECTIVE, 2, 2),
    Cell("cp", COMPILED, 2, 2, full=True),
    Cell("cp", {**COMPILED, **AGAIN}, 2, 2, full=True),
    Cell("hybrid", {"mesh": "dp_shard=2,cp=2"}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "cp=2,tp=2", **SEQUENCE}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "pp=2,cp=2", "schedule": "1f1b"}, 4, 2),
    Cell("hybrid", {"mesh": "pp=2,cp=2", "schedule": "zbv"}, 4, 2),
]
"""What needs an axis that only llama-tiny has."""
WORKLOADS = {"mlp": (MLP, 32), "llama-tiny": (LLAMA, 16)}
OPTIMIZERS = {"sgd": SGD, "adamw": ADAMW}
_oracles: dict[str, list[float]] = {}


def _matrix() -> Iterator[Any]:
    """Yield every cell x workload x optimizer; the everyday part is where test_matrix.py does not look every day."""
    everything = itertools.chain(
        itertools.product(CELLS, WORKLOADS, OPTIMIZERS), itertools.product(LLAMA_CELLS, ["llama-tiny"], OPTIMIZERS)
    )
    for cell, workload, optimizer in everything:
        diagonal = (workload, optimizer) in (("llama-tiny", "sgd"), ("mlp", "adamw"))
        own = any(name in SPLIT for name in cell.options.values())  # schedules that the matrix sees on two ranks only
        everyday = diagonal and not cell.full and (cell.ranks < 4 or (own and workload == "llama-tiny"))
        marks = [] if everyday else [pytest.mark.full]
        yield pytest.param(cell, workload, optimizer, marks=marks, id=f"{cell}-{workload}-{optimizer}")


@pytest.mark.parametrize(("cell", "workload", "optimizer"), list(_matrix()))
def test_equals_one_process(pools: Any, cell: Cell, workload: str, optimizer: str) -> None:
    shape, batch = WORKLOADS[workload]
    work = {"workload": workload, "workload_options": {**shape, **OPTIMIZERS[optimizer]}, "global_batch": batch}
    expected = _oracle(pools, work)
    got = _losses(pools, cell, work)
    assert got == pytest.approx(expected, abs=TOLERANCE, rel=0)
    planted = _losses(pools, cell, work, steps=3, plant=True)
    assert planted != pytest.approx(expected[:3], abs=TOLERANCE, rel=0), "a wrong gradient must be seen"


WEIGHED = [Cell("ddp", {}, 2, 2), Cell("hybrid", {"mesh": "pp=2,dp=2"}, 4, 2), Cell("cp", {"degree": 2}, 4, 2)]


@pytest.mark.parametrize("cell", WEIGHED, ids=str)
def test_weights_that_must_be_added_up_give_the_same(pools: Any, cell: Cell) -> None:
    work = {"workload": "llama-tiny", "workload_options": {**LLAMA, **SGD}, "global_batch": 16}
    got = _losses(pools, cell, work, weigh_each=True)
    assert got == pytest.approx(_oracle(pools, work), abs=TOLERANCE, rel=0)


@pytest.mark.parametrize(("strategy", "grad_accum"), [("pp", 2), ("hybrid", 1)])
def test_too_few_micro_batches_are_refused(pools: Any, strategy: str, grad_accum: int) -> None:
    pool = pools(4) if strategy == "pp" else pools(2)
    message = pool.run("refusal", world_size=pool.size, strategy=strategy, grad_accum=grad_accum)
    assert all("at least as many micro-batches as ranks" in words for words in message)


@pytest.mark.parametrize("schedule", SPLIT)
def test_resharding_under_a_split_backward_is_wrong_and_so_never_done(pools: Any, schedule: str) -> None:
    """What the composition rules keep from happening. Where this fails, torch has learnt it, and the rule can go."""
    work = {"workload": "mlp", "workload_options": {**MLP, **SGD}, "global_batch": 32}
    cell = Cell("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": schedule}, 4, 4)
    wrong = _losses(pools, cell, work, reshard=True)
    assert max(abs(a - b) for a, b in zip(wrong, _oracle(pools, work), strict=True)) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "cell",
    [
        Cell("single", AGAIN, 1, 2),
        Cell("ddp", AGAIN, 2, 2),
        Cell("fsdp", AGAIN, 2, 2),
        Cell("pp", AGAIN, 2, 2),
        Cell("tp", {"degree": 2, **AGAIN}, 4, 2),
    ],
    ids=str,
)
def test_activation_checkpointing_computes_everything_twice(pools: Any, cell: Cell) -> None:
    work = {"workload": "mlp", "workload_options": {**MLP, **SGD}, "global_batch": 32, "grad_accum": cell.grad_accum}
    for options, times in ((cell.options, 2), ({**cell.options, "activation_checkpointing": "none"}, 1)):
        more = {"strategy": cell.strategy, "strategy_options": options, "world_size": cell.ranks}
        counts = pools(max(2, cell.ranks)).run("forward_calls", **work, **more)
        assert counts == [times * cell.grad_accum] * len(counts)


CLIPPED = [
    Cell("ddp", {}, 2, 2),
    Cell("pp", {"schedule": "1f1b"}, 2, 2),
    Cell("tp", {"degree": 2}, 4, 2, full=True),
    Cell("tp", SEQUENCE, 2, 1),
    Cell("hybrid", {"mesh": "dp_shard=2,tp=2"}, 4, 2, full=True),
    Cell("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": "zbv"}, 4, 2),
    Cell("cp", {"degree": 2}, 4, 2),
]


@pytest.mark.parametrize("cell", [pytest.param(c, marks=[pytest.mark.full] * c.full, id=str(c)) for c in CLIPPED])
def test_a_gradient_is_clipped_by_the_norm_of_all_its_parts(pools: Any, cell: Cell) -> None:
    work = {"workload": "llama-tiny", "workload_options": {**LLAMA, **SGD}, "global_batch": 16}
    clipped = {**work, "workload_options": {**work["workload_options"], "max_grad_norm": 0.1}}
    expected = _oracle(pools, clipped)
    assert max(abs(a - b) for a, b in zip(expected, _oracle(pools, work), strict=True)) > 100 * TOLERANCE
    assert _losses(pools, cell, clipped) == pytest.approx(expected, abs=TOLERANCE, rel=0)


@pytest.mark.parametrize("limit", [0.5, 1e9])
def test_one_process_clips_as_torch_does(pools: Any, limit: float) -> None:
    ours, theirs = pools(2).run("clipped_gradients", limit=limit)[0]
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_an_exchange_brings_all_ranks_to_rank_0_and_its_decision_to_all(pools: Any) -> None:
    answers = pools(4).run("exchange_windows", world_size=4)
    assert answers[0] == (5, [0.0, 1.0, 2.0, 3.0])
    assert answers[1:] == [(5, None)] * 3


def _oracle(pools: Any, work: dict[str, Any]) -> list[float]:
    key = repr(work)
    if key not in _oracles:
        _oracles[key] = _reduce(pools(2).run("single", **work, grad_accum=1, steps=STEPS))
    return _oracles[key]


def _losses(pools: Any, cell: Cell, work: dict[str, Any], steps: int = STEPS, **more: Any) -> list[float]:
    arguments = {"strategy": cell.strategy, "strategy_options": cell.options, "grad_accum": cell.grad_accum, **more}
    if cell.ranks == 1:
        return _reduce(pools(2).run("alone", steps=steps, **work, **arguments))
    return _reduce(pools(cell.ranks).run("train", world_size=cell.ranks, steps=steps, **work, **arguments))


def _reduce(answers: list[list[tuple[float, float]]]) -> list[float]:
    """Do what the collector of the steps does: sum(loss_sum) / sum(weight) over the ranks."""
    per_step = zip(*(answer for answer in answers if answer), strict=True)
    return [sum(loss for loss, _ in ranks) / sum(weight for _, weight in ranks) for ranks in per_step]
