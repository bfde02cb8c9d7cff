"""What rank 0 of the pool does for strategies of one process."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from cases import build


def look(
    rank: int, *, strategy: str, options: dict[str, Any], workload_options: dict[str, Any], gpus: int = 0
) -> dict[str, Any]:
    """Build on one rank; return its notes and the sizes of its parts, or the words of a refusal.

    Args:
        gpus: let the process believe that it sees so many; only a refusal comes from that here.
    """
    if rank:
        return {}
    devices = [torch.device("cuda", i) for i in range(gpus)]
    seen = patch("hpcpar.worker.one_process.layers.visible", lambda home: devices) if gpus else nullcontext()
    try:
        with seen:
            return _look(strategy, options, workload_options)
    except ValueError as error:
        return {"refusal": str(error)}


def _look(strategy: str, options: dict[str, Any], workload_options: dict[str, Any]) -> dict[str, Any]:
    trainer = build(
        0,
        world_size=1,
        strategy=strategy,
        strategy_options=options,
        workload="mlp",
        workload_options=workload_options,
        global_batch=8,
        grad_accum=1,
    )
    sizes = [sum(p.numel() for p in part.parameters()) for part in getattr(trainer.model, "parts", [])]
    return {"notes": list(trainer.notes), "sizes": sizes}
