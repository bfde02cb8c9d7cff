"""Ring all-reduce through Horovod, in ranks that something else has started. Imports torch.

No wheel of Horovod fits a torch that hpcpar takes. It must be built by hand (docs/strategies.md says how); the tests
run this against it only where somebody has done so (last with Horovod 0.28.1 on CPUs).
"""

from __future__ import annotations

import os
import socket
from typing import Any

import torch
from torch import distributed

from hpcpar.errors import MissingExtraError
from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Scores, StepResult, Trainer
from hpcpar.worker.context import JobContext
from hpcpar.worker.mesh_engine import weights
from hpcpar.worker.mesh_engine.clip import Clipper
from hpcpar.worker.mesh_engine.evaluate import evaluate
from hpcpar.worker.mesh_engine.feed import Batch, Feed
from hpcpar.worker.neural import NeuralWorkload
from hpcpar.worker.rank import RankInfo


class HorovodTrainer:
    """A whole model on every rank; Horovod adds the gradients up while the last backward pass still runs."""

    def __init__(
        self, context: JobContext, workload: NeuralWorkload, model: Any, optimizer: Any, ring: tuple[Any, Any]
    ) -> None:
        self.model, self._workload, self._optimizer = model, workload, optimizer
        self._hvd, self._server = ring
        self._feed, self._micro_batch = Feed(context, workload), context.identity.micro_batch
        self._clip = Clipper(context, workload, model)

    def batch(self, step: int) -> Batch:
        """Fetch this rank's share of the global batch."""
        return self._feed.fetch(step)

    def step(self, batch: Batch) -> StepResult:
        """Do one update."""
        scale = 1 / self._feed.global_weight(batch)
        self._optimizer.zero_grad()
        loss_sums, weight = [], 0.0
        pairs = zip(batch.inputs.split(self._micro_batch), batch.targets.split(self._micro_batch), strict=True)
        for inputs, targets in pairs:
            loss_sum, its_weight = self._workload.loss(self.model(inputs), targets)
            (loss_sum * scale).backward()
            loss_sums.append(loss_sum.detach())
            weight += its_weight
        self._optimizer.synchronize()
        self._clip(dict(self.model.named_parameters()))
        with self._optimizer.skip_synchronize():
            self._optimizer.step()
        return StepResult(torch.stack(loss_sums).sum(), weight, True)

    def evaluate(self) -> Scores:
        """Evaluate this rank's share."""
        return evaluate(self._workload, self._feed, lambda batch: self.model(batch.inputs), self._micro_batch)

    def close(self) -> None:
        """Leave Horovod's ring."""
        self._hvd.shutdown()
        if self._server is not None:
            self._server.stop()


def build(context: JobContext, workload: NeuralWorkload, compression: str) -> Trainer:
    """Make the trainer of this rank.

    Raises:
        MissingExtraError: Horovod is not installed.
    """
    ring = hvd, _ = _join(context)
    model = weights.materialise(workload.units, workload, context, EngineOptions())
    # A sum: the loss is divided by the weight of the whole batch already.
    optimizer = hvd.DistributedOptimizer(
        workload.optimizer(model.parameters()),
        named_parameters=model.named_parameters(),
        compression=getattr(hvd.Compression, compression),
        backward_passes_per_step=context.identity.grad_accum,
        op=hvd.Sum,
    )
    return HorovodTrainer(context, workload, model, optimizer, ring)


def _join(context: JobContext) -> tuple[Any, Any]:
    """Do what horovodrun does: rank 0 serves the addresses, the environment says who this rank is."""
    try:
        import horovod.torch as hvd
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "horovod":
            raise
        raise MissingExtraError("horovod", "horovod", "strategy horovod") from error
    info = context.info
    if info.world_size == 1:
        hvd.init()
        return hvd, None
    server, port = _serve(info) if info.rank == 0 else (None, 0)
    ports = [port]
    distributed.broadcast_object_list(ports, src=0)
    os.environ.update(variables(info, ports[0]))
    hvd.init()
    return hvd, server


def _serve(info: RankInfo) -> tuple[Any, int]:
    from horovod.runner.common.util.hosts import SlotInfo
    from horovod.runner.http.http_server import RendezvousServer

    local_size = info.world_size // info.nodes
    server = RendezvousServer()
    port = server.start()
    places = (divmod(rank, local_size) for rank in range(info.world_size))
    server.init(
        [
            SlotInfo(f"node{node}", rank, local_rank, node, info.world_size, local_size, info.nodes)
            for rank, (node, local_rank) in enumerate(places)
        ]
    )
    return server, port


def variables(info: RankInfo, port: int) -> dict[str, str]:
    """Return what horovodrun would set for this rank (Horovod 0.28.1, runner/gloo_run.py)."""
    local_size = info.world_size // info.nodes
    # On one machine a host name need not resolve; elsewhere Slurm's address of rank 0's node is the surest.
    one_machine = info.nodes == 1 or info.scheduler == "local"
    found = {
        "HOROVOD_RANK": info.rank,
        "HOROVOD_SIZE": info.world_size,
        "HOROVOD_LOCAL_RANK": info.local_rank,
        "HOROVOD_LOCAL_SIZE": local_size,
        "HOROVOD_CROSS_RANK": info.node_rank,
        "HOROVOD_CROSS_SIZE": info.nodes,
        "HOROVOD_HOSTNAME": f"node{info.node_rank}",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1" if one_machine else info.launch_address or info.hostnames[0],
        "HOROVOD_GLOO_RENDEZVOUS_PORT": port,
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
    }
    interface = os.environ.get("GLOO_SOCKET_IFNAME") or ("lo" if one_machine else "")
    if interface in [name for _, name in socket.if_nameindex()]:
        found["HOROVOD_GLOO_IFACE"] = interface
    return {name: str(value) for name, value in found.items()}
