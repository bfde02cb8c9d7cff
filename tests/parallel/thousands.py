"""What one rank of thousands moves in a step, on one CPU: its process group is a fake that nobody answers.

What a rank computes there is nonsense; what it sends, how often and to which group, is what it would send. Three things
wait for words of others, which are put in their place here: the shapes that stages of a pipeline tell each other, the
future of DDP's reduction, and torch's tables of process groups, which outlive a fake (so each count is a process).
"""

from __future__ import annotations

import multiprocessing
import warnings
from typing import Any, NamedTuple
from unittest import mock

import ledger_cases
import matrix_cases
import torch
from bubbles import fake_world
from cases import rank_info
from matrix import Job
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining._utils import _StageBackwardMeta, _StageForwardMeta, extract_tensor_metas

from hpcpar.worker.context import make_context

STEPS = 3
"""In the first one, stages tell each other shapes, in the second DDP orders its buckets; the third is counted."""


class Counted(NamedTuple):
    """What a rank holds and moves."""

    parameters: int
    """Bytes."""
    moved: dict[str, int]
    """Bytes of payload by collective."""


def count(job: Job, rank: int) -> Counted:
    """Count one step of a rank, in a process of its own.

    Args:
        job: of a Llama.
        rank: of the whole mesh.
    """
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_count, (job, rank))


def _count(job: Job, rank: int) -> Counted:
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    torch.set_num_threads(1)
    with fake_world(job.identity.mesh.world_size, rank), mock.patch.object(PipelineStage, "_recv_meta", _told(job)):
        context = make_context(rank_info(rank, job.identity.mesh.world_size), job.identity, torch.device("cpu"))
        trainer = matrix_cases.build_in(context, matrix_cases.load(job))
        counter = ledger_cases.Count()
        if isinstance(trainer.model, nn.parallel.DistributedDataParallel):
            trainer.model.register_comm_hook(counter, _reduce)
        for step in range(1, STEPS):
            trainer.step(trainer.batch(step))
        batch = trainer.batch(STEPS)
        counter.moved.clear()
        with counter:
            trainer.step(batch)
        named = matrix_cases.named_parameters(trainer).values()
        return Counted(sum(ledger_cases.local(parameter).nbytes for parameter in named), dict(counter.moved))


def _reduce(counter, bucket):  # type: ignore[no-untyped-def]  # DDP wants its own types here, or none
    """Count a bucket of DDP's, and give it back as it is."""
    counter.moved["all-reduce"] += bucket.buffer().nbytes
    future: torch.futures.Future[Any] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def _told(job: Job) -> Any:
    """Say what other stages would: activations [B, S, D] of a micro-batch, and their gradients."""
    identity, options = job.identity, job.identity.workload_options
    shape = (identity.micro_batch, options["sequence"] // identity.mesh.cp, options["dim"])
    metas = extract_tensor_metas((torch.empty(shape, requires_grad=True),))
    gradients = extract_tensor_metas((torch.empty(shape),))

    def receive(stage: Any, source: int) -> Any:
        return _StageForwardMeta(metas) if source < stage.stage_index else _StageBackwardMeta(gradients)

    return receive
