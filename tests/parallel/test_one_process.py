"""Strategies of one process compute what `single` computes, bit by bit: the same operations in the same order."""

from __future__ import annotations

from typing import Any

import pytest

STEPS = 4
MLP = {"hidden": 24, "layers": 5}
LLAMA = {"dim": 32, "heads": 2, "kv_heads": 1, "hidden": 48, "layers": 3, "sequence": 16}
SGD = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9}
ADAMW = {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.01}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("layerwise", {}),
    ("layerwise", {"cuts": [1]}),
    ("layerwise", {"cuts": [1, 2, 4]}),
    ("dp", {}),
]


@pytest.mark.parametrize(("optimizer", "accum"), [(SGD, 1), (ADAMW, 2)], ids=["sgd-accum1", "adamw-accum2"])
@pytest.mark.parametrize(("workload", "shape"), [("mlp", MLP), ("llama-tiny", LLAMA)], ids=["mlp", "llama"])
@pytest.mark.parametrize(("strategy", "options"), CASES, ids=str)
def test_losses_are_those_of_single_bit_by_bit(
    pools: Any, strategy: str, options: Any, workload: str, shape: dict[str, Any], optimizer: Any, accum: int
) -> None:
    work = {"workload": workload, "workload_options": {**shape, **optimizer}, "global_batch": 16, "grad_accum": accum}
    spread = {"strategy": strategy, "strategy_options": options}
    expected = pools(2).run("single", **work, steps=STEPS)[0]
    assert pools(2).run("alone", **work, **spread, steps=STEPS)[0] == expected
    planted = pools(2).run("alone", **work, **spread, steps=2, plant=True)[0]
    assert planted != expected[:2], "a wrong gradient must be seen"


def look(pools: Any, strategy: str, options: dict[str, Any], gpus: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = pools(2).run(
        "one_process_cases.look", strategy=strategy, options=options, workload_options=MLP, gpus=gpus
    )[0]
    return found


def test_layers_are_cut_where_the_options_say_and_the_record_says_so(pools: Any) -> None:
    found = look(pools, "layerwise", {"cuts": [1, 3]})
    first, inner, output = 64 * 24 + 24, 24 * 24 + 24, 24 * 10 + 10
    assert found["sizes"] == [first, 2 * inner, 2 * inner + output]
    places = "hidden0 to hidden0 on cpu; hidden1 to hidden2 on cpu; hidden3 to output on cpu"
    assert found["notes"] == [
        f"layerwise: all parts are on the same device (cpu), so nothing was spread: {places}",
    ]


def test_without_cuts_a_cpu_holds_two_parts_of_even_weight(pools: Any) -> None:
    # Parameters of the units: 1560, 4 x 600, 250. The best of all cuts is behind the second one: 2160 and 2050.
    assert look(pools, "layerwise", {})["sizes"] == [2160, 2050]


def test_a_cut_beyond_the_model_is_refused(pools: Any) -> None:
    message = "cuts: 6 lies beyond the model: its 6 units are cut before 1 to 5"
    assert look(pools, "layerwise", {"cuts": [2, 6]}) == {"refusal": message}


def test_more_parts_than_devices_are_refused(pools: Any) -> None:
    message = "cuts make 3 parts, but this process sees 2 devices: choose fewer cuts"
    assert look(pools, "layerwise", {"cuts": [1, 3]}, gpus=2) == {"refusal": message}


def test_data_parallel_says_that_a_cpu_is_one_replica(pools: Any) -> None:
    note = "dp: this process sees one device (cpu): it is one replica, nothing was spread"
    assert look(pools, "dp", {})["notes"] == [note]
