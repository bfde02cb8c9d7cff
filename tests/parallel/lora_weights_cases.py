"""Adapters on the weights of a folder. What needs transformers and peft is imported where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import torch

from hpcpar import registry
from hpcpar.spec import Identity
from hpcpar.worker.export import trained
from hpcpar.worker.team import Team

STEPS = 4


def save_llama(path: Path, *, shards: str = "", dtype: str = "float32", **config: Any) -> None:
    """Save a random Llama as transformers does."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 256,
        "initializer_range": 0.2,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**shape, **config})).to(getattr(torch, dtype))
    model.save_pretrained(path, **({"max_shard_size": shards} if shards else {}))


def logits(path: Path, adapter: Path | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens [B, S], and what transformers (with peft where there is an adapter) makes of them [B, S, V]."""
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokens = torch.randint(0, 256, (2, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return tokens, (PeftModel.from_pretrained(model, adapter) if adapter else model)(tokens).logits


def trainer(path: Path, **options: Any) -> Any:
    """Return the trainer of one process."""
    plan = {"world_size": 1, "strategy": "single", "strategy_options": {}, "global_batch": 8, "grad_accum": 1}
    return cases.build(0, workload="llama-lora", workload_options={"model": {"path": str(path)}, **options}, **plan)


def exported(rank: int, **arguments: Any) -> dict[str, bytes] | None:
    """Train, and return on rank 0 the files of the adapters."""
    built = cases.build(rank, **arguments)
    for step in range(1, STEPS + 1):
        built.step(built.batch(step))
    size = arguments["world_size"]
    info = cases.rank_info(rank, size)
    meeting = object() if size > 1 else None
    team = Team(info=info, device=torch.device("cpu"), reports=[], exchange=lambda *_: None, meeting=meeting)
    parameters = trained(built.learned, team, _identity(arguments))
    if parameters is None:
        return None
    work = registry.get_workload(arguments["workload"])
    loaded = work.load(cases.msgspec.convert(arguments["workload_options"], work.Options), 3)
    return dict(loaded.export(parameters))


def _identity(arguments: dict[str, Any]) -> Identity:
    spread = registry.get_strategy(arguments["strategy"])
    options = cases.msgspec.convert(arguments["strategy_options"], spread.Options)
    mesh = spread.layout(registry.World(1, arguments["world_size"]), options)
    return cases.identity(arguments["strategy"], {}, "llama-lora", {}, mesh, 16, arguments["grad_accum"])
