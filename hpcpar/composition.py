"""Which axes go together, and on which workloads: the one place that knows. Pure; the plan asks it, the engine again.

A combination that torch runs without a word and trains the wrong model is refused here by name, or made right in the
engine; tests/parallel holds each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Declaration
from hpcpar.spec import Mesh


class Refusal(NamedTuple):
    """Why something cannot be, and what would do instead."""

    what: str
    fix: str = ""


def reshards(options: EngineOptions) -> bool:
    """Say whether sharded weights are given back between the forward and the backward pass."""
    return options.reshard_after_forward is not False


def layout_refusals(mesh: Mesh, options: EngineOptions, declared: Declaration) -> Iterator[Refusal]:
    """Yield why this mesh cannot run with these options on this workload, whatever the batch."""
    missing = [f"{axis}={getattr(mesh, axis)}" for axis in ("cp", "ep") if getattr(mesh, axis) > 1]
    if missing:
        yield Refusal(f"mesh {mesh.label()}: {', '.join(missing)} is not supported yet", "use pp, dp, dp_shard and tp")
    if mesh.pp > declared.num_units:
        yield Refusal(
            f"a pipeline of {mesh.pp} stages is deeper than the model's {declared.num_units} units",
            f"choose pp of {declared.num_units} or less, or a deeper model",
        )
    if mesh.tp > 1:
        yield from _tensor_refusals(mesh, options, declared)


def _tensor_refusals(mesh: Mesh, options: EngineOptions, declared: Declaration) -> Iterator[Refusal]:
    plan, tp = declared.tensor, mesh.tp
    if plan is None:
        what = "the workload has no tensor-parallel plan"
        yield Refusal(what, "ddp, fsdp and pp need none, nor does a mesh of dp, dp_shard and pp")
        return
    if plan.divides % tp:
        sizes = [str(size) for size in range(1, min(plan.divides, 64) + 1) if plan.divides % size == 0]
        what = f"tp={tp} does not divide the {plan.divides} parts into which the workload's layers can be split"
        yield Refusal(what, f"choose tp from {', '.join(sizes)}, and let dp, dp_shard or pp take the other ranks")
    if options.sequence_parallel and declared.sequence is None:
        yield Refusal("sequence_parallel: the workload has no sequence axis", "leave it out, tp works without it")
    elif options.sequence_parallel and declared.sequence is not None and declared.sequence % tp:
        what = f"sequence_parallel: a sequence of {declared.sequence} does not divide over tp={tp}"
        yield Refusal(what, "choose a sequence that is a multiple of tp, or leave sequence_parallel out")
    if options.loss_parallel and not plan.loss_parallel:
        yield Refusal("loss_parallel: the workload's plan does not split its logits", "leave it out")
    if options.static_graph and mesh.dp_replicate > 1:
        yield Refusal("static_graph and tp have not been shown to go together", "leave static_graph out")


def batch_refusals(mesh: Mesh, options: EngineOptions, micro_batches: int) -> Iterator[Refusal]:
    """Yield why the schedule cannot run with this number of micro-batches (grad_accum)."""
    if mesh.pp > 1 and options.schedule == "1f1b" and micro_batches < mesh.pp:
        yield Refusal(
            f"the 1f1b schedule needs at least as many micro-batches as stages: grad_accum is {micro_batches}, "
            f"the pipeline has {mesh.pp} stages"
        )


def check(mesh: Mesh, options: EngineOptions, declared: Declaration, micro_batches: int) -> None:
    """Refuse in the job what a plan would have refused.

    Raises:
        ValueError: with every reason.
    """
    found = [*layout_refusals(mesh, options, declared), *batch_refusals(mesh, options, micro_batches)]
    if found:
        raise ValueError("; ".join(f"{what} ({fix})" if fix else what for what, fix in found))
