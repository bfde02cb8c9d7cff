"""What would make a run fit: smaller micro-batches, recomputed activations, low precision; the fastest that does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from hpcpar import composition
from hpcpar.control.forecast.ask import Shapes
from hpcpar.control.forecast.layout import Layout
from hpcpar.control.forecast.memory import need, verdict
from hpcpar.registry import Declaration


class Change(Struct, frozen=True, kw_only=True):
    """A change of a run that makes it fit."""

    flags: str
    """As they stand on a command line."""
    need_bytes: float
    step_s: float | None
    changes_numbers: bool
    """It rounds otherwise: the run learns a little differently."""


TimeOf = Callable[[Layout, Shapes], float | None]


def cheapest_change(
    layout: Layout, variants: Sequence[Layout], capacity: float, shapes: Shapes, time_of: TimeOf
) -> Change | None:
    """Return the change after which a step is fastest; one that keeps the numbers wins over one that does not."""
    fitting = [change for one in variants if (change := _fits(one, layout, shapes, capacity, time_of)) is not None]
    fitting.sort(key=lambda one: (one.changes_numbers, one.step_s if one.step_s is not None else 0.0, one.flags))
    return fitting[0] if fitting else None


def variants_of(layout: Layout, declared: Declaration) -> Iterator[Layout]:
    """Yield the run with other micro-batches, checkpointing and precision, as far as the rules allow."""
    per_rank = layout.micro_batch * layout.grad_accum
    sizes = [size for size in range(1, layout.micro_batch + 1) if per_rank % size == 0]
    precisions: tuple[Any, ...] = (layout.engine.precision,) if layout.engine.precision != "fp32" else ("fp32", "bf16")
    for precision in precisions:
        for checkpointing in dict.fromkeys((layout.engine.activation_checkpointing, "none", "full")):
            engine = msgspec.structs.replace(
                layout.engine,
                precision=precision,
                activation_checkpointing=checkpointing,
            )
            if layout.zero is not None and engine != layout.engine:
                continue  # DeepSpeed offers neither
            if any(composition.layout_refusals(layout.mesh, engine, declared)):
                continue
            for size in sizes:
                accumulation = per_rank // size
                if not any(composition.batch_refusals(layout.mesh, engine, accumulation)):
                    yield layout._replace(engine=engine, micro_batch=size, grad_accum=accumulation)


def _fits(
    one: Layout,
    before: Layout,
    shapes: Shapes,
    capacity: float,
    time_of: TimeOf,
) -> Change | None:
    model = shapes.models[one.case]
    if isinstance(model, str):
        return None
    needed = need(model, one, shapes.answer)
    if verdict(needed, capacity, gpu=one.gpu) != "yes":
        return None
    return Change(
        flags=_flags(one, before),
        need_bytes=needed.total,
        step_s=time_of(one, shapes),
        changes_numbers=one.engine.precision != before.engine.precision,
    )


def _flags(one: Layout, before: Layout) -> str:
    words = [f"--micro-batch {one.micro_batch}"] if one.micro_batch != before.micro_batch else []
    for name in ("activation_checkpointing", "precision"):
        value = getattr(one.engine, name)
        if value != getattr(before.engine, name):
            words.append(f"--option {name}={value}")
    return " ".join(words)
