"""A Llama in a folder: what its shape is, and every way in which it may not be one, known without torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcpar import registry
from hpcpar.cli import main
from hpcpar.worker.workloads import llama_folder
from hpcpar.worker.workloads.llama_folder import LAYERS, FolderError

CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
}
SIZES = [(16,), (16, 16), (8, 16), (8, 16), (16, 16), (16,), (24, 16), (24, 16), (16, 24)]


def tensors() -> dict[str, tuple[int, ...]]:
    named = {"model.embed_tokens.weight": (256, 16), "model.norm.weight": (16,), "lm_head.weight": (256, 16)}
    for layer in range(2):
        names = (f"model.layers.{layer}.{path}.weight" for path in LAYERS.values())
        named |= dict(zip(names, SIZES, strict=True))
    return named


def write(path: Path, named: dict[str, tuple[int, ...]], dtype: str = "F32") -> None:
    """Write a file of tensors as its format is described, all zeros."""
    header, end = {}, 0
    for name, shape in named.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write(tmp_path / "model.safetensors", tensors())
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def test_config_says_the_shape_and_every_parameter_has_its_tensor(folder: Path) -> None:
    found = llama_folder.read(str(folder))

    shape = {"dim": 16, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 24, "vocabulary": 256, "rope_theta": 5e5}
    assert dict(found.options) == shape
    assert found.norm_eps == 1e-6
    assert found.source("block0.embedding.weight") == "model.embed_tokens.weight"
    assert found.source("block1.head.output.weight") == "lm_head.weight"
    assert found.source("block1.block.attention.query.base.weight") == "model.layers.1.self_attn.q_proj.weight"
    assert found.source("block0.block.feed_forward.up.weight") == "model.layers.0.mlp.up_proj.weight"


def test_tensors_in_several_files_are_found_by_the_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = sorted(tensors())
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, part in parts.items():
        write(folder / file, {name: tensors()[name] for name in part}, "BF16")
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert llama_folder.read(str(folder)).facts()["files"] == 2

    (folder / "b.safetensors").unlink()
    with pytest.raises(FolderError, match=r"cannot read .*b\.safetensors: No such file"):
        llama_folder.read(str(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral' is not 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not 'silu'"),
        ({"attention_bias": True}, "its linear layers have biases"),
        ({"quantization_config": {"bits": 4}}, "its weights are quantised"),
        ({"head_dim": 8}, "head_dim 8 is not hidden_size / heads"),
        ({"num_key_value_heads": 3}, "4 heads are not a multiple of 3 key heads"),
        ({"num_attention_heads": 0}, "a size is not positive"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rotary embeddings of the type 'yarn' are not known"),
        ({"rope_scaling": {"type": "llama3"}, "rope_parameters": None}, "the rotary scaling lacks a number: 'factor'"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight is in none of its files"),
        ({"intermediate_size": 32}, r"has the shape \[24, 16\], config.json says \[32, 16\]"),
        ({"vocab_size": "many"}, "is damaged, or of another kind"),
    ],
)
def test_what_cannot_be_trained_is_named(folder: Path, changes: dict[str, Any], words: str) -> None:
    edit(folder, **changes)
    with pytest.raises(FolderError, match=words):
        llama_folder.read(str(folder))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no file of safetensors"),
        (b"\xff" * 64, "is no file of safetensors"),
        ((2).to_bytes(8, "little") + b"[]", "is no file of safetensors"),
        ((13).to_bytes(8, "little") + b'{"a":{"x":1}}', "a tensor has no place in it"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, content: bytes, words: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(FolderError, match=words):
        llama_folder.read(str(folder))


def test_a_file_that_was_not_copied_whole_is_seen(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FolderError, match=r"ends too early: \d+ of \d+ bytes are there"):
        llama_folder.read(str(folder))


def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret"}}')
    with pytest.raises(FolderError, match="names no files of this folder"):
        llama_folder.read(str(folder))


def problems(**options: Any) -> list[str]:
    work = registry.get_workload("llama-lora")
    return [str(problem) for problem in work.check(msgspec.convert(options, work.Options))]


def test_before_anything_is_queued_all_that_is_wrong_is_said(folder: Path) -> None:
    path = str(folder)
    assert problems(model={"path": path}) == []
    assert problems(model={"path": path}, dim=16) == []
    assert problems(model={"path": path}, dim=32, layers=4) == [
        "workload llama-lora: dim: is 32, the model has 16\n    leave it out",
        "workload llama-lora: layers: is 4, the model has 2\n    leave it out",
    ]
    [missing] = problems(model={"path": path + "/no"})
    assert missing.startswith(f"workload llama-lora: model.path: '{path}/no' is no folder")
    [pathless] = problems(model={"export": True})
    assert pathless.startswith("workload llama-lora: model.export: needs model.path")


def test_the_declaration_is_that_of_the_folder(folder: Path) -> None:
    work = registry.get_workload("llama-lora")
    declared = work.declare(msgspec.convert({"model": {"path": str(folder)}}, work.Options))
    assert declared.num_units == 2
    assert declared.tensor is not None
    assert declared.tensor.divides == 2  # of 4 and 2 heads, a width of 24 and 256 tokens


def test_submit_says_it_and_leaves_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    words = ["submit", "--cluster", "local", "--workload", "llama-lora", "--runs", str(runs)]
    (folder / "model.safetensors").unlink()
    assert main([*words, "--set", f"model.path={folder}", "--set", "data.path=/not/there"]) == 2
    said = capsys.readouterr().err
    assert f"workload llama-lora: model.path: cannot read {folder}/model.safetensors: No such file" in said
    assert "workload llama-lora: data.path: '/not/there' does not exist" in said
    assert not runs.exists()
