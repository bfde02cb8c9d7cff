"""The presets of llama are the published models, to the last parameter."""

from __future__ import annotations

import math
from typing import Any

import pytest

PUBLISHED = {
    # The model cards of TinyLlama/TinyLlama-1.1B, meta-llama/Llama-2-7b-hf and meta-llama/Meta-Llama-3-8B.
    "llama-1b": 1_100_048_384,
    "llama-7b": 6_738_415_616,
    "llama-8b": 8_030_261_248,
    # JackFram/llama-160m, whose card does not say it: 2 x 32000 x 768 + 12 x (4 x 768^2 + 3 x 768 x 3072) + 25 x 768.
    "llama-160m": 162_417_408,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_parameters_as_published(pools: Any, name: str) -> None:
    assert sum(pools(2).run("llama_cases.num_parameters", name=name)[0].values()) == PUBLISHED[name]


def test_stories15m_has_its_output_embedding_for_nothing(pools: Any) -> None:
    """llama2.c prints 15,191,712: its two embeddings are one."""
    found = pools(2).run("llama_cases.num_parameters", name="llama-15m")[0]
    assert sum(found.values()) - found["embedding"] == 15_191_712


def test_a_preset_with_other_dimensions_trains(pools: Any) -> None:
    """It begins at the logarithm of its vocabulary, though texts have bytes only, and learns.

    Tolerance: the standard deviation of a logit, 0.02 x sqrt(64), as few bytes make up most of 128.
    """
    small = {"dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 96, "vocabulary": 1000, "sequence": 32}
    losses = pools(2).run("llama_cases.learns", name="llama-8b", options={**small, "lr": 0.005}, steps=12)[0]
    assert losses[0] == pytest.approx(math.log(1000), abs=0.16)
    assert losses[-1] < losses[0] - 2
