"""Bubbles and kept activations: formulas, torch's orders and what is counted on real pipelines say the same.

Times are measured by `make pipelines`, not here.
"""

from __future__ import annotations

from typing import Any

import bubbles
import pytest

from hpcpar.analysis.scaling import timeline
from hpcpar.schedules import SCHEDULES, ScheduleName

SIZES = [(2, 8), (4, 4), (4, 8), (8, 32)]
ALLOWED = [
    (name, p, m)
    for name, facts in SCHEDULES.items()
    for p, m in SIZES
    if facts.fills != "stages" or m >= p * facts.stages_per_rank
]


@pytest.mark.parametrize(("name", "p", "m"), ALLOWED)
def test_the_order_of_torch_has_the_bubble_of_the_formula(name: ScheduleName, p: int, m: int) -> None:
    v = SCHEDULES[name].stages_per_rank
    found, said = bubbles.simulated(bubbles.order(name, p, m, v), p * v), bubbles.bubble(name, p, m, v)
    if said is not None:
        assert found == pytest.approx(said)
    elif SCHEDULES[name].splits_backward:
        assert found < (p - 1) / (v * m + p - 1), "filled with the gradients of weights"


@pytest.mark.parametrize(("name", "p", "m"), ALLOWED)
def test_what_the_report_draws_is_the_order_of_torch(name: ScheduleName, p: int, m: int) -> None:
    v = SCHEDULES[name].stages_per_rank
    drawn = timeline.order(name, p, m, v)
    assert (drawn is None) == SCHEDULES[name].splits_backward
    if drawn is not None:
        torchs = {rank: [step[:3] for step in steps] for rank, steps in bubbles.order(name, p, m, v).items()}
        assert {rank: [tuple(step) for step in steps] for rank, steps in drawn.items()} == torchs


def test_one_stage_of_zero_bubble_is_zb_h1() -> None:
    assert bubbles.simulated(bubbles.order("zero-bubble", 4, 8, 1), 4) == pytest.approx(3 / 27)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rank_keeps_what_the_order_says(pools: Any, name: ScheduleName) -> None:
    p, m, v = 4, 8, SCHEDULES[name].stages_per_rank
    orders = bubbles.order(name, p, m, v)
    counted = pools(p).run("pipeline_cases.most_kept", name=name, m=m, v=v)
    assert counted == [bubbles.kept(orders, rank) for rank in range(p)]
    for rank, found in enumerate(counted):
        assert found == (bubbles.kept_by_formula(name, p, m, v, rank) or found)
