"""Which axes go together, and on which workloads: the one place that knows. Pure; the plan asks it, the engine again.

A combination that torch runs without a word and trains the wrong model is refused here by name, or made right in the
engine; tests/parallel holds each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Declaration
from hpcpar.schedules import SCHEDULES
from hpcpar.spec import Mesh


class Refusal(NamedTuple):
    """Why something cannot be, and what would do instead."""

    what: str
    fix: str = ""


def stages_per_rank(options: EngineOptions) -> int:
    """Return how many stages of a pipeline each of its ranks has."""
    return options.virtual_stages or SCHEDULES[options.schedule].stages_per_rank


def least_micro_batches(mesh: Mesh, options: EngineOptions) -> int:
    """Return how many micro-batches (grad_accum) a pipeline takes to have work for all of its ranks; 1 without one."""
    if mesh.pp == 1:
        return 1
    return mesh.pp * (stages_per_rank(options) if SCHEDULES[options.schedule].fills == "stages" else 1)


def reshards(mesh: Mesh, options: EngineOptions) -> bool:
    """Say whether sharded weights are given back between the forward and the backward pass.

    Never under a schedule that computes the gradients of weights later than those of inputs: torch 2.13 then reads
    weights that are no longer there, without a word.
    """
    if options.reshard_after_forward is None:
        return mesh.pp == 1 or not SCHEDULES[options.schedule].splits_backward
    return options.reshard_after_forward


def layout_refusals(mesh: Mesh, options: EngineOptions, declared: Declaration) -> Iterator[Refusal]:
    """Yield why this mesh cannot run with these options on this workload, whatever the batch."""
    if options.activation_checkpointing != "none" and declared.kind != "neural":
        what = f"activation_checkpointing: a workload of the kind '{declared.kind}' has no activations"
        yield Refusal(what, "leave it out")
    if mesh.ep > 1:
        yield Refusal(f"mesh {mesh.label()}: ep={mesh.ep} is not supported yet", "use pp, dp, dp_shard, cp and tp")
    if mesh.cp > 1 and (declared.sequence is None or not declared.context_parallel):
        yield Refusal("cp: the workload has no sequence that could be cut", "ddp, fsdp, tp and pp need none")
    elif mesh.cp > 1 and declared.sequence is not None and declared.sequence % mesh.cp:
        what = f"cp: a sequence of {declared.sequence} does not divide over cp={mesh.cp}"
        yield Refusal(what, "choose a sequence that is a multiple of cp")
    if mesh.pp > 1:
        yield from _pipeline_refusals(mesh, options, declared)
    if mesh.tp > 1:
        yield from _tensor_refusals(mesh, options, declared)


def _pipeline_refusals(mesh: Mesh, options: EngineOptions, declared: Declaration) -> Iterator[Refusal]:
    name, schedule = options.schedule, SCHEDULES[options.schedule]
    each, units = stages_per_rank(options), declared.num_units
    if schedule.fixed and each != schedule.stages_per_rank:
        what = f"the {name} schedule has {schedule.stages_per_rank} stages a rank, virtual_stages is {each}"
        loose = ", ".join(other for other, facts in SCHEDULES.items() if not facts.fixed)
        yield Refusal(what, f"leave virtual_stages out; it can be chosen for {loose}")
    elif mesh.pp * each > units:
        turns = f" ({mesh.pp} ranks x {each})" if each > 1 else ""
        what = f"a pipeline of {mesh.pp * each} stages{turns} is deeper than the model's {units} units"
        yield Refusal(what, f"choose pp of {units // each} or less, or a deeper model")
    if schedule.splits_backward and mesh.dp_shard > 1 and options.reshard_after_forward:
        what = f"reshard_after_forward under the {name} schedule trains a wrong model (torch 2.13)"
        yield Refusal(what, "leave reshard_after_forward out, or choose 1f1b, gpipe or interleaved-1f1b")


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
    elif options.sequence_parallel and declared.sequence is not None and declared.sequence % (mesh.cp * tp):
        over = f"cp={mesh.cp} x tp={tp}" if mesh.cp > 1 else f"tp={tp}"
        what = f"sequence_parallel: a sequence of {declared.sequence} does not divide over {over}"
        yield Refusal(what, "choose a sequence that is a multiple of tp (and cp), or leave sequence_parallel out")
    if options.loss_parallel and not plan.loss_parallel:
        yield Refusal("loss_parallel: the workload's plan does not split its logits", "leave it out")
    if options.static_graph and mesh.dp_replicate > 1:
        yield Refusal("static_graph and tp have not been shown to go together", "leave static_graph out")


def batch_refusals(mesh: Mesh, options: EngineOptions, micro_batches: int) -> Iterator[Refusal]:
    """Yield why the schedule cannot run with this number of micro-batches (grad_accum)."""
    name, schedule = options.schedule, SCHEDULES[options.schedule]
    if mesh.pp == 1:
        return
    least = least_micro_batches(mesh, options)
    if schedule.fills != "nothing" and micro_batches < least:
        yield Refusal(
            f"the {name} schedule needs at least as many micro-batches as {schedule.fills}: grad_accum is "
            f"{micro_batches}, the pipeline has {least} {schedule.fills}",
            "choose smaller micro-batches or a larger batch",
        )
    elif schedule.in_rounds and micro_batches % max(1, micro_batches // mesh.pp):
        what = (
            f"the {name} schedule sends equal rounds of about {mesh.pp} micro-batches, {micro_batches} do not divide so"
        )
        yield Refusal(what, f"choose micro_batch so that grad_accum is a multiple of {mesh.pp}")


def check(mesh: Mesh, options: EngineOptions, declared: Declaration, micro_batches: int) -> None:
    """Refuse in the job what a plan would have refused.

    Raises:
        ValueError: with every reason.
    """
    found = [*layout_refusals(mesh, options, declared), *batch_refusals(mesh, options, micro_batches)]
    if found:
        raise ValueError("; ".join(f"{what} ({fix})" if fix else what for what, fix in found))
