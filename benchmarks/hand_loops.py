"""The smallest training loop that one would write by hand for each strategy, on the model of hpcpar's llama-tiny
(for ep: of llama-moe).

Each maker returns a function that does one step and gives back the loss, still as a tensor. None knows anything of
hpcpar but the model, its data, and (for cp) the attention that goes round a ring.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import distributed, nn
from torch.nn.functional import cross_entropy

Step = Callable[[int], Any]
Batches = Callable[[int], tuple[Any, Any]]


def usual(name: str, parameter: Any) -> None:
    """Fill a parameter with numbers of the usual size."""
    nn.init.ones_(parameter) if parameter.dim() == 1 else nn.init.normal_(parameter, std=0.02)


class Job(NamedTuple):
    """What a loop is to do; `micro_batches` only where there is a pipeline."""

    rank: int
    mesh: Any
    """torch's DeviceMesh, None for one rank."""
    units: Any
    """Of the workload: name and build()."""
    samples: Any
    batch: int
    """Samples of all ranks together."""
    micro_batches: int
    device: torch.device
    bf16: bool = False
    compile: bool = False
    fused: bool = False
    initialise: Callable[[str, Any], None] = usual
    """(UNIT.PARAMETER, tensor): fill it in place."""


def model_of(job: Job, begin: int = 0, end: int | None = None) -> nn.Sequential:
    """Build some of the units, and give them their first weights."""
    units = job.units[begin:end]
    with job.device:
        model = nn.Sequential(OrderedDict((unit.name, unit.build()) for unit in units))
    for name, parameter in model.named_parameters():
        job.initialise(name, parameter.detach())
    return model


def adamw(job: Job, parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.999), weight_decay=0.0, fused=job.fused or None)


def batches(job: Job, part: int, parts: int) -> Batches:
    """Return a function from a step to this part's samples of the batch."""
    import numpy as np

    mine = job.batch // parts
    per_epoch = len(job.samples) // job.batch

    def batch(step: int) -> tuple[Any, Any]:
        first = (step % per_epoch) * job.batch + part * mine
        inputs, targets = job.samples.fetch(np.arange(first, first + mine))
        return inputs.to(job.device), targets.to(job.device)

    return batch


def mean_loss(logits: Any, targets: Any) -> Any:
    """Return the mean cross-entropy of logits [B, S, V] and targets [B, S]."""
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def plain_loop(job: Job, model: nn.Module, batch: Batches, finish: Callable[[], None] | None = None) -> Step:
    """Forward, backward, update; `finish` is called between the last two."""
    # As every loop for tensor parallelism must: foreach kernels take no mixture of plain and distributed tensors.
    kinds: dict[bool, list[Any]] = {}
    for parameter in model.parameters():
        kinds.setdefault(hasattr(parameter, "device_mesh"), []).append(parameter)
    optimizer = adamw(job, [{"params": each} for each in kinds.values()])

    def step(number: int) -> Any:
        inputs, targets = batch(number)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.bf16):
            logits = model(inputs)
        loss = mean_loss(logits, targets)
        loss.backward()
        if finish is not None:
            finish()
        optimizer.step()
        return loss.detach()

    return step


def single(job: Job) -> Step:
    model = model_of(job)
    if job.compile:
        for block in list(model)[1:]:
            block.compile(dynamic=False)
    return plain_loop(job, model, batches(job, 0, 1))


def ddp(job: Job) -> Step:
    model = nn.parallel.DistributedDataParallel(model_of(job), gradient_as_bucket_view=True)
    return plain_loop(job, model, batches(job, job.rank, job.mesh.size()))


def fsdp(job: Job) -> Step:
    from torch.distributed.fsdp import fully_shard

    model = model_of(job)
    for unit in model:
        fully_shard(unit, mesh=job.mesh)
    return plain_loop(job, fully_shard(model, mesh=job.mesh), batches(job, job.rank, job.mesh.size()))


def tp(job: Job) -> Step:
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        parallelize_module,
    )

    whole = Replicate()
    gather = PrepareModuleInput(input_layouts=whole, desired_input_layouts=whole, use_local_output=False)
    block = {"attention": gather, "attention.output": RowwiseParallel(), "feed_forward": gather}
    block |= {f"attention.{name}": ColwiseParallel() for name in ("query", "key", "value")}
    block |= {f"feed_forward.{name}": ColwiseParallel() for name in ("gate", "up")}
    block |= {"feed_forward.output": RowwiseParallel()}
    model = model_of(job)
    embedding, *blocks, head = model
    parallelize_module(embedding, job.mesh, RowwiseParallel(input_layouts=whole))
    for one in blocks:
        parallelize_module(one, job.mesh, block)
    parallelize_module(head, job.mesh, {"output": ColwiseParallel(output_layouts=whole)})
    return plain_loop(job, model, batches(job, 0, 1))


def cp(job: Job) -> Step:
    from hpcpar.worker.mesh_engine.ring import RingAttention

    model, group, size = model_of(job), job.mesh.get_group(), job.mesh.size()
    for block in list(model)[1:-1]:
        block.attention.mix = RingAttention(group)
        block.attention.rotary.part = job.rank
    whole = batches(job, 0, 1)

    def slices(number: int) -> tuple[Any, Any]:
        inputs, targets = (tensor.chunk(size, 1)[job.rank].contiguous() for tensor in whole(number))
        return inputs, targets

    return plain_loop(job, model, slices, lambda: add_up(model, group, 1 / size))


def add_up(model: nn.Module, group: Any, factor: float) -> None:
    gradients = [parameter.grad for parameter in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat, group=group)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient)).mul_(factor)


def ep(job: Job) -> Step:
    """Spread the experts of a mixture over all ranks; everything else is replicated."""
    import numpy as np

    model, ranks = model_of(job), distributed.get_world_size()
    experts = {name: one for name, one in model.named_modules() if name.endswith(".experts")}
    spread = {f"{name}.{its}": (one, its) for name, one in experts.items() for its, _ in one.named_parameters()}
    for one, its in spread.values():
        setattr(one, its, nn.Parameter(getattr(one, its).detach().chunk(ranks)[job.rank].clone()))
    for one in experts.values():
        one.forward = partial(travel, one.forward, ranks)
    routers = [one.router for one in model.modules() if hasattr(one, "router")]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(spread))
    replicas = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)

    def finish() -> None:
        for one, its in spread.values():
            getattr(one, its).grad.div_(ranks)  # as DDP does with all others
        counts = torch.stack([router.counts for router in routers])
        distributed.all_reduce(counts)
        for router, its_counts in zip(routers, counts, strict=True):
            router.settle(its_counts)

    step = plain_loop(job, replicas, batches(job, job.rank, ranks), finish)
    tokens = job.samples.fetch(np.arange(1))[1].numel() * job.batch // ranks

    def counted(number: int) -> Any:
        for router in routers:
            router.begin(1.0 / tokens)
        return step(number)

    return counted


def travel(compute: Any, ranks: int, rows: Any, counts: list[int]) -> Any:
    """Send rows that are sorted by expert to the ranks of the experts, and what these make of them back."""
    sent = torch.tensor(counts).view(ranks, -1)
    received = torch.empty_like(sent)
    distributed.all_to_all_single(received, sent)
    out, back = received.sum(1).tolist(), sent.sum(1).tolist()
    here = Exchange.apply(rows, out, back)
    pieces = here.split(received.flatten().tolist())
    order = torch.arange(received.numel()).view_as(received).t().flatten().tolist()
    made = compute(torch.cat([pieces[i] for i in order]), received.sum(0).tolist())
    ordered = dict(zip(order, made.split([len(pieces[i]) for i in order]), strict=True))
    return Exchange.apply(torch.cat([ordered[i] for i in range(len(pieces))]), back, out)


class Exchange(torch.autograd.Function):
    """All-to-all of rows; so is its backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Any, out: list[int], into: list[int]) -> Any:
        ctx.sizes = into, out
        received = rows.new_empty(sum(out), rows.shape[1])
        distributed.all_to_all_single(received, rows.contiguous(), out, into)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return Exchange.forward(ctx, gradient, *ctx.sizes), None, None


def pp(job: Job) -> Step:
    return pipeline(job, job.mesh, None)


def hybrid(job: Job) -> Step:
    return pipeline(job, job.mesh["pp"], job.mesh["dp_replicate"])


def pipeline(job: Job, stages: Any, replicas: Any) -> Step:
    """Run 1F1B over `stages`; where there are replicas, add their gradients up after it."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    ranks, mine = stages.size(), stages.get_local_rank()
    cuts = [len(job.units) * i // ranks for i in range(ranks + 1)]
    model = model_of(job, cuts[mine], cuts[mine + 1])
    stage = PipelineStage(model, mine, ranks, job.device, group=stages.get_group())
    schedule = Schedule1F1B(stage, n_microbatches=job.micro_batches, loss_fn=mean_loss)
    parts = replicas.size() if replicas else 1
    batch = batches(job, replicas.get_local_rank() if replicas else 0, parts)
    optimizer = adamw(job, model.parameters())

    def step(number: int) -> Any:
        inputs, targets = batch(number)
        optimizer.zero_grad(set_to_none=True)
        losses: list[Any] = []
        first = (inputs,) if mine == 0 else ()
        last = {"target": targets, "losses": losses} if mine == ranks - 1 else {}
        schedule.step(*first, **last, return_outputs=False)
        if replicas:
            add_up(model, replicas.get_group(), 1 / parts)
        optimizer.step()
        return torch.stack(losses).mean().detach() if losses else None

    return step


LOOPS = {"single": single, "ddp": ddp, "fsdp": fsdp, "tp": tp, "pp": pp, "cp": cp, "ep": ep, "hybrid": hybrid}
