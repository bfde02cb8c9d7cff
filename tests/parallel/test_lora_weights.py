"""Adapters on real weights: transformers' own Llama is what they are on, peft is what reads them.

Needs transformers, peft, safetensors and tokenizers, which no extra but `lora` brings (and not all of them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lora_weights_cases as cases
import pytest
from test_lora import CELLS, SGD
from test_parity import TOLERANCE, Cell, _losses, _oracle

pytestmark = pytest.mark.full
for package in ("transformers", "peft", "safetensors", "tokenizers"):
    pytest.importorskip(package)

LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS = {
    "one file": {"rms_norm_eps": 1e-3},
    "several files, bfloat16": {"shards": "40KB", "dtype": "bfloat16"},
    "tied embeddings": {"tie_word_embeddings": True},
    "Llama 3.1's rotary wavelengths": {"rope_parameters": LLAMA_3},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_has_the_logits_that_transformers_computes(tmp_path: Path, kind: str) -> None:
    cases.save_llama(tmp_path / "model", **KINDS[kind])
    tokens, expected = cases.logits(tmp_path / "model")

    got = cases.trainer(tmp_path / "model").model(tokens).detach()

    assert expected.std() > 0.1
    assert (got - expected).abs().max() < 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "model"
    cases.save_llama(path, shards="40KB")
    return path


def _work(folder: Path) -> dict[str, Any]:
    options = {"model": {"path": str(folder), "export": True}, "sequence": 16, "rank": 4, **SGD, "lr": 0.05}
    return {"workload": "llama-lora", "workload_options": options, "global_batch": 16}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_mesh_trains_and_exports_what_one_process_does(
    pools: Any, folder: Path, tmp_path: Path, cell: Cell
) -> None:
    work = _work(folder)
    assert _losses(pools, cell, work) == pytest.approx(_oracle(pools, work), abs=TOLERANCE, rel=0)
    arguments = {"strategy": cell.strategy, "strategy_options": cell.options, "grad_accum": cell.grad_accum}
    [files, *others] = pools(cell.ranks).run("lora_weights_cases.exported", world_size=cell.ranks, **arguments, **work)
    assert others == [None] * (cell.ranks - 1)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    tokens, with_peft = cases.logits(folder, tmp_path)
    _, plain = cases.logits(folder)
    expected = _trained_alone(work, tokens)
    assert (with_peft - plain).abs().max() > 1e-2, "adapters that do nothing prove nothing"
    assert (with_peft - expected).abs().max() < 1e-4


def _trained_alone(work: dict[str, Any], tokens: Any) -> Any:
    plan = {"world_size": 1, "strategy": "single", "strategy_options": {}, "grad_accum": 1}
    trainer = cases.cases.build(0, **plan, **work)
    for step in range(1, cases.STEPS + 1):
        trainer.step(trainer.batch(step))
    return trainer.model(tokens).detach()


def test_text_is_read_by_the_tokenizer_of_the_folder(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    cases.save_llama(tmp_path / "model")
    words = {"[UNK]": 0, "to": 1, "be": 2, "or": 3, "not": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    (tmp_path / "hamlet.txt").write_text("to be or not to be " * 20)

    trainer = cases.trainer(tmp_path / "model", data={"path": str(tmp_path / "hamlet.txt")}, sequence=6)

    inputs = {tuple(row) for row in trainer.batch(1).inputs.tolist()}
    assert inputs == {(1, 2, 3, 4, 1, 2)}
