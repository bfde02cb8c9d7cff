"""Real weights under adapters, and adapters as peft writes them. Imports torch; what the extra has, on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from hpcpar.errors import MissingExtraError, RunError
from hpcpar.records import Cause
from hpcpar.worker.data import tokenizer
from hpcpar.worker.workloads.llama_folder import LAYERS, LlamaFolder
from hpcpar.worker.workloads.lora_model import Adapters, is_adapter

if TYPE_CHECKING:
    import numpy as np

_TOKENIZER = "tokenizer.json"


def fill(
    name: str, values: Any, generator: torch.Generator, *, folder: LlamaFolder, adapter: Callable[..., None]
) -> None:
    """Fill a parameter in place: adapters as without a folder, all else with what the folder has of it."""
    if is_adapter(name):
        adapter(name, values, generator)
        return
    source = folder.source(name)
    path = folder.path / folder.files[source]
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise MissingExtraError("safetensors", "lora", f"model.path '{folder.path}'") from error
    try:
        with safe_open(path, framework="pt") as file:
            values.copy_(file.get_tensor(source))
    except (OSError, SafetensorError) as error:
        raise RunError(Cause.DATA, f"cannot read {source} from {path}: {error}") from error


def encoder(folder: LlamaFolder) -> Callable[[bytes], np.ndarray] | None:
    """Return text -> tokens [T] by the folder's own tokenizer; None where it has none: bytes are tokens then."""
    path = folder.path / _TOKENIZER
    return partial(tokenizer.encode, path, needed_by=f"model.path '{folder.path}'") if path.is_file() else None


def peft_files(parameters: Mapping[str, Any], *, folder: LlamaFolder, adapters: Adapters) -> dict[str, bytes]:
    """Return adapter_config.json and adapter_model.safetensors, as peft's LoraModel reads them.

    Args:
        parameters: the trained ones by full name, whole, on the CPU.
        folder: of the model that they belong to.
        adapters: what every adapter knows.
    """
    from safetensors.torch import save

    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(folder.path.absolute()),
        "r": adapters.rank,
        "lora_alpha": adapters.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(LAYERS[path].rpartition(".")[2] for path in adapters.layers),
    }
    tensors = {_peft_name(name): values.contiguous() for name, values in parameters.items()}
    encoded = msgspec.json.format(msgspec.json.encode(config), indent=2)
    return {"adapter_config.json": encoded, "adapter_model.safetensors": save(tensors, {"format": "pt"})}


def _peft_name(name: str) -> str:
    """Return what peft calls blockI.block.PATH.down.weight (A) or .up.weight (B)."""
    unit, _, path = name.removesuffix(".weight").partition(".block.")
    layer, _, matrix = path.rpartition(".")
    which = {"down": "lora_A", "up": "lora_B"}[matrix]
    return f"base_model.model.model.layers.{unit.removeprefix('block')}.{LAYERS[layer]}.{which}.weight"
