"""Which axes go together, and on which workloads: the one place that knows. Pure; the plan asks it, the engine again.

A combination that torch runs without a word and trains the wrong model is refused here by name, or made right in the
engine; tests/parallel holds each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import EngineOptions, UnitOptions
from hpcpar.registry import Declaration
from hpcpar.schedules import SCHEDULES

WITH_UNITS = frozenset({"neural", "mixture-of-experts"})
"""Kinds of workload whose models are made of units; what is chosen about units means nothing to the others."""


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
    if declared.kind not in WITH_UNITS:
        yield from _unitless_refusals(options, declared)
    if mesh.ep > 1 or options.capacity:
        yield from _expert_refusals(mesh, options, declared)
    if mesh.cp > 1 and (declared.sequence is None or not declared.context_parallel):
        yield Refusal("cp: the workload has no sequence that could be cut", "ddp, fsdp, tp and pp need none")
    elif mesh.cp > 1 and declared.sequence is not None and declared.sequence % mesh.cp:
        what = f"cp: a sequence of {declared.sequence} does not divide over cp={mesh.cp}"
        yield Refusal(what, "choose a sequence that is a multiple of cp")
    if mesh.pp > 1:
        yield from _pipeline_refusals(mesh, options, declared)
    if mesh.tp > 1:
        yield from _tensor_refusals(mesh, options, declared)
    if options.compression != "none":
        yield from _compression_refusals(mesh, options)
    if declared.experts is not None:
        yield from _mixture_refusals(options)


def _unitless_refusals(options: EngineOptions, declared: Declaration) -> Iterator[Refusal]:
    plain = UnitOptions()
    for name in (one for one in UnitOptions.__struct_fields__ if getattr(options, one) != getattr(plain, one)):
        yield Refusal(f"{name}: a workload of the kind '{declared.kind}' is no model made of units", "leave it out")


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
    if schedule.splits_backward and options.compile:
        what = f"compile under the {name} schedule: a compiled unit computes all of its gradients in one piece"
        yield Refusal(what, "choose 1f1b, gpipe, looped-bfs or interleaved-1f1b, or leave compile out")
    if schedule.splits_backward and options.activation_checkpointing == "selective":
        what = f"selective checkpointing under the {name} schedule: what was kept can be read once only"
        yield Refusal(what, "choose full or none, or 1f1b, gpipe, looped-bfs or interleaved-1f1b")


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
    if options.sequence_parallel and not plan.sequence_parallel:
        what = "sequence_parallel: parts of the workload need whole sequences between its matrices"
        yield Refusal(what, "leave it out, tp works without it")
    elif options.sequence_parallel and declared.sequence is None:
        yield Refusal("sequence_parallel: the workload has no sequence axis", "leave it out, tp works without it")
    elif options.sequence_parallel and declared.sequence is not None and declared.sequence % (mesh.cp * tp):
        over = f"cp={mesh.cp} x tp={tp}" if mesh.cp > 1 else f"tp={tp}"
        what = f"sequence_parallel: a sequence of {declared.sequence} does not divide over {over}"
        yield Refusal(what, "choose a sequence that is a multiple of tp (and cp), or leave sequence_parallel out")
    if options.loss_parallel and not plan.loss_parallel:
        yield Refusal("loss_parallel: the workload's plan does not split its logits", "leave it out")
    if options.async_tp and not (options.sequence_parallel and options.compile):
        what = "async_tp: what it cuts into pieces are the messages of sequence_parallel, in compiled units"
        yield Refusal(what, "choose sequence_parallel and compile with it, or leave it out")
    if declared.kind == "adapters" and mesh.dp_replicate > 1 and mesh.dp_shard == mesh.pp == 1:
        what = "replicas of tp with frozen weights: DDP over tensor parallelism trains them all the same (torch 2.13)"
        yield Refusal(what, "choose dp_shard or pp beside tp, or tp over all ranks")
    if options.static_graph and mesh.dp_replicate > 1:
        yield Refusal("static_graph and tp have not been shown to go together", "leave static_graph out")
    if options.precision == "fp8":
        yield Refusal("fp8 and tp have not been shown to go together", "use bf16, or fsdp, ddp or pp")


def _compression_refusals(mesh: Mesh, options: EngineOptions) -> Iterator[Refusal]:
    leave = "leave compression out; it is for replicas of a whole model (ddp)"
    if mesh.dp_shard > 1:
        yield Refusal("compression: FSDP2 scatters the gradients of sharded weights, and has no hook for it", leave)
    if mesh.pp > 1:
        yield Refusal("compression: replicas of a pipeline send gradients without DDP, whose hooks it needs", leave)
    if mesh.tp > 1:
        yield Refusal("compression and tp have not been shown to go together", leave)
    if options.compression == "powersgd" and options.static_graph:
        what = "powersgd with static_graph: with accumulation, what was compressed would be compressed again"
        yield Refusal(what, "leave static_graph out")


def _mixture_refusals(options: EngineOptions) -> Iterator[Refusal]:
    chosen = {
        "precision": options.precision != "fp32",
        "compile": options.compile,
        "compression": options.compression != "none",
        "activation_checkpointing selective": options.activation_checkpointing == "selective",
    }
    for what in (name for name, is_chosen in chosen.items() if is_chosen):
        yield Refusal(f"{what} and a mixture of experts have not been shown to go together", "leave it out")


def _expert_refusals(mesh: Mesh, options: EngineOptions, declared: Declaration) -> Iterator[Refusal]:
    plan, ep = declared.experts, mesh.ep
    if plan is None:
        what = "ep: the workload has no experts" if ep > 1 else "capacity: the workload has no experts"
        yield Refusal(what, "leave it out; ddp, fsdp and pp need none")
        return
    if plan.number % ep:
        sizes = ", ".join(str(size) for size in range(1, plan.number + 1) if plan.number % size == 0)
        yield Refusal(f"ep={ep} does not divide the workload's {plan.number} experts", f"choose ep from {sizes}")
    if mesh.data_ranks % ep:
        what = f"ep={ep} does not divide the {mesh.data_ranks} data ranks (dp_replicate x dp_shard) that share experts"
        yield Refusal(what, "experts are spread over ranks with different samples: choose ep or the data axes to fit")
    if ep > 1 and mesh.tp > 1:
        what = "ep and tp together: DDP over tensor parallelism hands the model other weights than the engine reduces"
        yield Refusal(what, "leave tp out; ep goes with pp, dp, dp_shard and cp")
    if ep > 1 and mesh.dp_shard > 1 and options.cpu_offload:
        yield Refusal("cpu_offload and ep: experts are not part of what is offloaded", "leave cpu_offload out")
    if options.capacity and mesh.cp > 1:
        what = "capacity and cp: an expert takes tokens of a sample in their order, and cp spreads a sample over ranks"
        yield Refusal(what, "leave capacity out, or cp")


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
