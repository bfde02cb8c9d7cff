"""A Llama in a folder, as transformers' save_pretrained writes it: its shape, and which file has which tensor.

config.json and one file model.safetensors, or several and model.safetensors.index.json. Only headers are read here, so
that a login node without torch can tell whether a folder is whole. The format of a header is the one that
huggingface.co/docs/safetensors describes: eight bytes with its length, then JSON with type, shape and place by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from hpcpar.storage import expand_home, is_file, is_folder

CONFIG, ONE_FILE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_MAX_HEADER = 100_000_000
"""What safetensors itself refuses beyond."""

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
LAYERS = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.output": "mlp.down_proj",
}
"""Path in a block -> path in a layer of transformers' Llama. Both turn the pairs (i, i + E/2) of a head."""


class FolderError(ValueError):
    """The folder is not one that can be used; the sentence says why."""


class Scaling(NamedTuple):
    """How Llama 3.1 and later stretch rotary wavelengths; the names are those of its config.json."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: float


class LlamaFolder(NamedTuple):
    """A folder that is whole."""

    path: Path
    options: Mapping[str, Any]
    """The shape, by the names of LlamaOptions."""
    norm_eps: float
    scaling: Scaling | None
    files: Mapping[str, str]
    """Name of a tensor -> name of its file."""
    tied: bool
    """The last matrix is the embedding's."""

    def source(self, name: str) -> str:
        """Return which of its tensors is the parameter of that name (UNIT.PATH.weight) of llama-lora's model."""
        unit, _, path = name.removesuffix(".weight").partition(".")
        known = {"embedding": EMBEDDING, "head.norm": NORM, "head.output": EMBEDDING if self.tied else HEAD}
        if path in known:
            return known[path]
        layer = LAYERS[path.removeprefix("block.").removesuffix(".base")]
        return f"model.layers.{unit.removeprefix('block')}.{layer}.weight"

    def facts(self) -> dict[str, Any]:
        """Describe the weights for the record."""
        sizes = sum((self.path / file).stat().st_size for file in set(self.files.values()))
        return {"path": str(self.path), "files": len(set(self.files.values())), "num_bytes": sizes}


class _Config(Struct, frozen=True, kw_only=True):
    """What of config.json matters here."""

    model_type: str = ""
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    intermediate_size: int
    vocab_size: int
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    """transformers 5 writes both into one."""
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    quantization_config: dict[str, Any] | None = None


def read(text: str) -> LlamaFolder:
    """Look at a folder.

    Raises:
        FolderError: it is missing, unreadable or incomplete, or its model is none that can be trained here.
    """
    path = expand_home(text)
    if not is_folder(path):
        raise FolderError(f"'{text}' is no folder")
    config = _decoded(path / CONFIG, _Config)
    _refuse(config)
    rope = config.rope_parameters or config.rope_scaling or {}
    shape = {
        "dim": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads or config.num_attention_heads,
        "hidden": config.intermediate_size,
        "vocabulary": config.vocab_size,
        "rope_theta": float(rope.get("rope_theta") or config.rope_theta or 10_000.0),
    }
    files = _files(path)
    found = LlamaFolder(path, shape, config.rms_norm_eps, _scaling(rope), files, config.tie_word_embeddings)
    wrong = list(_misfits(found))
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise FolderError(f"'{path}': {'; '.join(wrong[:3])}{more}")
    return found


def _refuse(config: _Config) -> None:
    heads, keys = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    sizes = (config.hidden_size, config.num_hidden_layers, heads, keys, config.intermediate_size, config.vocab_size)
    if min(sizes) < 1:
        raise FolderError(f"{CONFIG}: a size is not positive")
    wrong = {
        f"model_type '{config.model_type}' is not 'llama'": config.model_type != "llama",
        f"hidden_act '{config.hidden_act}' is not 'silu'": config.hidden_act != "silu",
        "its linear layers have biases": config.attention_bias or config.mlp_bias,
        "its weights are quantised": config.quantization_config is not None,
        f"head_dim {config.head_dim} is not hidden_size / heads": config.head_dim
        not in (
            None,
            config.hidden_size // heads,
        ),
        f"hidden_size {config.hidden_size} is not a multiple of 2 x {heads} heads": config.hidden_size % (2 * heads),
        f"{heads} heads are not a multiple of {keys} key heads": heads % keys,
    }
    said = [words for words, is_wrong in wrong.items() if is_wrong]
    if said:
        raise FolderError(f"{CONFIG}: {'; '.join(said)}")


def _scaling(rope: Mapping[str, Any]) -> Scaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise FolderError(f"{CONFIG}: rotary embeddings of the type '{kind}' are not known: default and llama3 are")
    try:
        return Scaling(*(float(rope[name]) for name in Scaling._fields))
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{CONFIG}: the rotary scaling lacks a number: {error}") from error


def _files(path: Path) -> dict[str, str]:
    """Return which file has which tensor, after a look at all headers."""
    names = [ONE_FILE]
    if is_file(path / INDEX):
        names = sorted({str(name) for name in _decoded(path / INDEX, dict[str, Any]).get("weight_map", {}).values()})
        if not names or any(Path(name).name != name for name in names):
            raise FolderError(f"{path / INDEX}: 'weight_map' names no files of this folder")
    return {tensor: name for name in names for tensor in header(path / name)}


def header(path: Path) -> dict[str, Any]:
    """Return name -> {dtype, shape, data_offsets} of a file of tensors.

    Raises:
        FolderError: it is missing, is none, or ends too early.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER:
                raise FolderError(f"{path} is no file of safetensors")
            entries = msgspec.json.decode(file.read(length), type=dict[str, dict[str, Any]])
        size = path.stat().st_size
    except OSError as error:
        raise FolderError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} is no file of safetensors: {error}") from error
    entries.pop("__metadata__", None)
    try:
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FolderError(f"{path} is no file of safetensors: a tensor has no place in it") from error
    if size < end:
        raise FolderError(f"{path} ends too early: {size} of {end} bytes are there")
    return entries


def _misfits(folder: LlamaFolder) -> Iterator[str]:
    """Yield what is missing, or of another shape or type than config.json says."""
    headers = {name: header(folder.path / name) for name in set(folder.files.values())}
    for tensor, shape in _wanted(folder):
        if tensor not in folder.files:
            yield f"{tensor} is in none of its files"
            continue
        entry = headers[folder.files[tensor]][tensor]
        if tuple(entry.get("shape", ())) != shape:
            yield f"{tensor} has the shape {entry.get('shape')}, {CONFIG} says {list(shape)}"
        elif entry.get("dtype") not in _FLOATS:
            yield f"{tensor} is of the type {entry.get('dtype')}, which is none of {', '.join(_FLOATS)}"


def _wanted(folder: LlamaFolder) -> Iterator[tuple[str, tuple[int, ...]]]:
    shape = folder.options
    dim, hidden, vocabulary = shape["dim"], shape["hidden"], shape["vocabulary"]
    keys = dim // shape["heads"] * shape["kv_heads"]
    matrices = {
        "attention_norm": (dim,),
        "attention.query": (dim, dim),
        "attention.key": (keys, dim),
        "attention.value": (keys, dim),
        "attention.output": (dim, dim),
        "feed_norm": (dim,),
        "feed_forward.gate": (hidden, dim),
        "feed_forward.up": (hidden, dim),
        "feed_forward.output": (dim, hidden),
    }
    yield EMBEDDING, (vocabulary, dim)
    for layer in range(shape["layers"]):
        yield from ((f"model.layers.{layer}.{LAYERS[path]}.weight", size) for path, size in matrices.items())
    yield NORM, (dim,)
    if not folder.tied:
        yield HEAD, (vocabulary, dim)


def _decoded(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise FolderError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} is damaged, or of another kind: {error}") from error
