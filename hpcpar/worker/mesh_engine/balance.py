"""How busy the experts of a mixture are: counted over the global batch, told to the routers, and recorded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import torch
from msgspec.structs import replace
from torch import distributed, nn

from hpcpar.records import Step
from hpcpar.worker.context import JobContext
from hpcpar.worker.neural import NeuralWorkload, Router

AXES = ("pp", "dp_replicate", "dp_shard", "cp")
"""Over which counts are added up: a stage of a pipeline fills its own rows, the ranks of tp count the same tokens."""


class Balance:
    """The routers of this rank. A workload without any costs nothing.

    Legend: L routers of the whole model (layers), E experts; the last column counts what was dropped.
    """

    def __init__(self, context: JobContext, workload: NeuralWorkload, parts: Iterable[nn.Module]) -> None:
        """Find the routers.

        Args:
            context: the rank's.
            workload: names the routers.
            parts: what this rank has of the model; its children are units under their names.
        """
        names = [(u.name, path) for u in workload.units for path, style in u.experts.items() if style == "router"]
        here = {name: module for part in parts for name, module in part.named_children()}
        self._routers: dict[int, Router] = {
            layer: here[unit].get_submodule(path) for layer, (unit, path) in enumerate(names) if unit in here
        }
        plan = workload.declared.experts
        self._shape = (len(names), plan.number + 1 if plan is not None else 0)
        self._chosen = plan.chosen if plan is not None else 0
        self._device = context.device
        self._groups = [context.groups[axis] for axis in AXES if axis in context.groups]
        self._recorded: list[Any] | None = [] if context.info.rank == 0 else None
        self._loads: list[float] = []
        self._dropped: list[float] = []

    def begin(self, scale: float) -> None:
        """Begin a step whose summed losses are multiplied by `scale` before their backward passes."""
        for router in self._routers.values():
            router.begin(scale)

    def finish(self) -> None:
        """Add the counts up over the global batch and tell the routers; without waiting for the device."""
        if not self._shape[0]:
            return
        counts_LE = torch.zeros(self._shape, dtype=torch.int64, device=self._device)
        for layer, router in self._routers.items():
            counts_LE[layer] = router.counts
        for group in self._groups:
            distributed.all_reduce(counts_LE, group=group)
        for layer, router in self._routers.items():
            router.settle(counts_LE[layer].to(router.counts.device))
        if self._recorded is not None:
            self._recorded.append(counts_LE)

    def complete(self, records: Sequence[Step]) -> list[Step]:
        """Add to the records of a window how busy the experts were; rank 0, once for every step."""
        if not self._recorded:
            return list(records)
        counts_KLE = torch.stack(self._recorded).double().cpu()
        self._recorded.clear()
        loads_KLE, dropped_KL = counts_KLE[..., :-1], counts_KLE[..., -1]
        busiest_K = (loads_KLE.amax(-1) / loads_KLE.mean(-1)).mean(-1).tolist()
        shares_K = (dropped_KL.sum(-1) / loads_KLE.sum((-1, -2))).tolist()
        self._loads += busiest_K
        self._dropped += shares_K
        pairs = zip(records, busiest_K, shares_K, strict=True)
        return [replace(record, expert_load=load, dropped=share) for record, load, share in pairs]

    @property
    def notes(self) -> tuple[str, ...]:
        """Say how busy the experts were; on rank 0, after the last step."""
        if not self._loads:
            return ()
        layers, experts = self._shape[0], self._shape[1] - 1
        what = f"{layers} layers of {experts} experts, {self._chosen} a token"
        load = f"the busiest expert of a layer had {self._loads[0]:.3g} times the mean load in the first step"
        dropped = f"{100 * fmean(self._dropped):.3g} % of what was sent to experts was dropped"
        return (f"experts: {what}; {load}, {self._loads[-1]:.3g} in the last one; {dropped}",)
