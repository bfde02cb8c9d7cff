"""What was saved on one mesh goes on on another: the losses after it are those of one process that never stopped.

Tolerance: as for parity, 1e-5; restoring itself is exact, and what is left is another order of sums.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

TOLERANCE = 1e-5
SAVED, STEPS = 3, 6
LLAMA = {"dim": 32, "heads": 4, "kv_heads": 4, "hidden": 48, "layers": 6, "sequence": 16}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9},
    "adamw": {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01},
}
MESHES: dict[str, tuple[str, dict[str, Any], int]] = {
    "single": ("single", {}, 1),
    "layerwise": ("layerwise", {"cuts": [3]}, 1),
    "dp": ("dp", {}, 1),
    "ddp-2": ("ddp", {}, 2),
    "fsdp-2": ("fsdp", {}, 2),
    "fsdp-4": ("fsdp", {}, 4),
    "hsdp-4": ("fsdp", {"shard_size": 2}, 4),
    "offload-2": ("fsdp", {"cpu_offload": True}, 2),
    "tp-2": ("tp", {"sequence_parallel": True, "loss_parallel": True}, 2),
    "cp-2": ("cp", {}, 2),
    "zbv-2": ("pp", {"schedule": "zbv"}, 2),
    "pp-ddp-4": ("hybrid", {"mesh": "pp=2,dp=2"}, 4),
    "pp-tp-4": ("hybrid", {"mesh": "pp=2,tp=2"}, 4),
    "ddp-tp-4": ("hybrid", {"mesh": "dp=2,tp=2"}, 4),
    "fsdp-tp-4": ("hybrid", {"mesh": "dp_shard=2,tp=2"}, 4),
    "pp-fsdp-4": ("hybrid", {"mesh": "pp=2,dp_shard=2", "schedule": "interleaved-1f1b"}, 4),
}
EVERY_DAY = [
    ("fsdp-4", "fsdp-2", "adamw"),
    ("fsdp-4", "pp-tp-4", "sgd"),
    ("pp-ddp-4", "single", "adamw"),
    ("fsdp-tp-4", "cp-2", "sgd"),
    ("tp-2", "layerwise", "adamw"),
    ("ddp-tp-4", "fsdp-2", "adamw"),
    ("pp-tp-4", "ddp-tp-4", "sgd"),
]
_NAMES, _TURNS = list(MESHES), cycle(OPTIMIZERS)
ALL = [(name, _NAMES[(i + hop) % len(_NAMES)], next(_TURNS)) for hop in (0, 3, 7, 12) for i, name in enumerate(_NAMES)]
"""Every mesh is saved four times and restored four times, its own saves included, with both optimizers."""


def _work(optimizer: str) -> dict[str, Any]:
    options = {**LLAMA, **OPTIMIZERS[optimizer]}
    return {"workload": "llama-tiny", "workload_options": options, "global_batch": 16, "grad_accum": 4}


def _on(mesh: str) -> dict[str, Any]:
    strategy, options, ranks = MESHES[mesh]
    return {"strategy": strategy, "strategy_options": options, "world_size": ranks}


def _losses(answers: list[list[tuple[float, float]]]) -> list[float]:
    there = [answer for answer in answers if answer]
    return [sum(rank[i][0] for rank in there) / sum(rank[i][1] for rank in there) for i in range(len(there[0]))]


def _run(pools: Any, case: str, mesh: str, optimizer: str, folder: Path, **more: Any) -> list[float]:
    pool = pools(max(2, MESHES[mesh][2]))
    return _losses(pool.run(f"checkpoint_cases.{case}", folder=str(folder), **_on(mesh), **_work(optimizer), **more))


@pytest.fixture(scope="module")
def memory() -> dict[str, list[float]]:
    return {}


def _undisturbed(pools: Any, memory: dict[str, list[float]], optimizer: str) -> list[float]:
    if optimizer not in memory:
        memory[optimizer] = _losses(pools(2).run("cases.single", steps=STEPS, **_work(optimizer)))
    return memory[optimizer]


def _after(pools: Any, memory: Any, pair: tuple[str, str, str], folder: Path, plant: str = "") -> float:
    """Save on one mesh, go on on another; return the largest difference to one process that never stopped."""
    before, after, optimizer = pair
    wanted = _undisturbed(pools, memory, optimizer)
    assert _run(pools, "train_and_save", before, optimizer, folder, steps=SAVED) == pytest.approx(
        wanted[:SAVED], rel=TOLERANCE
    )
    got = _run(pools, "load_and_train", after, optimizer, folder, done=SAVED, steps=STEPS, plant=plant)
    return max(abs(a - b) / b for a, b in zip(got, wanted[SAVED:], strict=True))


@pytest.mark.parametrize("pair", EVERY_DAY, ids="-".join)
def test_training_goes_on_on_another_mesh(pools: Any, memory: Any, tmp_path: Path, pair: tuple[str, str, str]) -> None:
    assert _after(pools, memory, pair, tmp_path) <= TOLERANCE


@pytest.mark.full
@pytest.mark.parametrize("pair", ALL, ids="-".join)
def test_training_goes_on_on_any_other_mesh(
    pools: Any, memory: Any, tmp_path: Path, pair: tuple[str, str, str]
) -> None:
    assert _after(pools, memory, pair, tmp_path) <= TOLERANCE


@pytest.mark.parametrize(
    ("forgotten", "optimizer"),
    [
        ("optimizer", "adamw"),
        ("one parameter", "sgd"),
        pytest.param("optimizer", "sgd", marks=pytest.mark.full),
        pytest.param("one parameter", "adamw", marks=pytest.mark.full),
    ],
)
def test_what_is_not_restored_is_seen(pools: Any, memory: Any, tmp_path: Path, optimizer: str, forgotten: str) -> None:
    assert _after(pools, memory, ("fsdp-2", "tp-2", optimizer), tmp_path, plant=forgotten) > 100 * TOLERANCE


def test_what_routers_learned_is_in_a_checkpoint_too(pools: Any, tmp_path: Path) -> None:
    options = {"dim": 16, "heads": 2, "kv_heads": 2, "hidden": 16, "layers": 2, "sequence": 16}
    work = {"workload": "llama-moe", "workload_options": options, "global_batch": 16, "grad_accum": 1}
    found = pools(2).run("checkpoint_cases.buffers", folder=str(tmp_path), steps=2, **_on("single"), **work)[0]
    assert len(found) == 2
    for restored, trained in found.values():
        assert restored == trained
        assert any(trained)
