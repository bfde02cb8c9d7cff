"""What rank 0 of the pool does for strategies of one process."""

from __future__ import annotations

from typing import Any

from cases import build


def look(rank: int, *, strategy: str, options: dict[str, Any], workload_options: dict[str, Any]) -> dict[str, Any]:
    """Build on one rank; return its notes, the number of parts and the words of a refusal."""
    if rank:
        return {}
    try:
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
    except ValueError as error:
        return {"refusal": str(error)}
    sizes = [sum(p.numel() for p in part.parameters()) for part in getattr(trainer.model, "parts", [])]
    return {"notes": list(trainer.notes), "sizes": sizes}
