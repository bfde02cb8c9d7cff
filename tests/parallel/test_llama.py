"""The presets of llama are the published models, to the last parameter."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from hpcpar import registry
from hpcpar.worker.workloads.llama import PRESETS

PUBLISHED = {
    # The model cards of TinyLlama/TinyLlama-1.1B, meta-llama/Llama-2-7b-hf and meta-llama/Meta-Llama-3-8B.
    "llama-1b": 1_100_048_384,
    "llama-7b": 6_738_415_616,
    "llama-8b": 8_030_261_248,
}


PAGE = Path(__file__).resolve().parents[2] / "docs" / "workloads.md"


def _table() -> dict[str, list[int]]:
    """Return the numbers of the table in the page's section on llama, by preset."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## llama\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(llama-\w+)` \|(.*)\|[^|]*\|$", section, flags=re.MULTILINE)
    return {name: [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", cells)] for name, cells in rows}


def test_the_page_has_every_preset() -> None:
    assert set(_table()) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_model_and_the_page_say(pools: Any, name: str) -> None:
    number = sum(pools(2).run("llama_cases.num_parameters", name=name)[0].values())
    options: Any = registry.get_workload(name).Options()
    fields = ("dim", "layers", "heads", "kv_heads", "hidden", "vocabulary", "sequence")
    assert _table()[name] == [*(getattr(options, field) for field in fields), number]
    assert PUBLISHED.get(name, number) == number


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
