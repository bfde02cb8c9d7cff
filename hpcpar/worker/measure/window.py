"""A window of steps: what the ranks measured, brought to rank 0 in one exchange and made into Step records.

Legend: W ranks, K steps of the window, C columns (see `Column`).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from hpcpar.records import Step

MAX_STEPS = 1024
"""The longest window in steps, however short they are."""
TARGET_S = 2.5
"""What the next window should last; half the promise of five seconds, as steps may get slower."""


class Column(enum.IntEnum):
    """What a rank knows about a step."""

    TIME_S = 0
    DATA_S = 1
    LOSS_SUM = 2
    WEIGHT = 3
    APPLIED = 4


class Exchanged(NamedTuple):
    """What an exchange gives back."""

    table_WKC: Any
    """The measurements of all ranks on rank 0, None elsewhere."""
    next_size: int
    """How many steps the next window has; the same on all ranks."""


class Exchange(Protocol):
    """Brings a window to rank 0."""

    def __call__(self, table_KC: Any, next_size: int) -> Exchanged:
        """Gather the tables of all ranks; `next_size` counts on rank 0."""


def exchange_alone(table_KC: Any, next_size: int) -> Exchanged:
    """Exchange nothing: there is one rank."""
    return Exchanged(table_KC[None], next_size)


class GroupExchange:
    """One gather to rank 0 and one number back, over a CPU process group.

    The group's own methods, and a tensor for the number that is made once: after a step's computation each call finds
    the processor's caches cold, and half of what an exchange costs would be Python between it and the group.
    """

    def __init__(self, group: Any, rank: int, world_size: int) -> None:
        import torch
        from torch import distributed

        self._group, self._rank, self._world_size = group, rank, world_size
        self._size = torch.zeros(1, dtype=torch.int64)
        self._to_first, self._from_first = distributed.GatherOptions(), distributed.BroadcastOptions()
        self._to_first.rootRank = self._from_first.rootRank = 0

    def __call__(self, table_KC: Any, next_size: int) -> Exchanged:
        """Gather the tables of all ranks; `next_size` counts on rank 0."""
        import torch

        mine_KC = torch.from_numpy(table_KC)
        if self._rank:
            self._group.gather([], [mine_KC], self._to_first).wait()
            self._group.broadcast([self._size], self._from_first).wait()
            return Exchanged(None, self._size.item())
        all_WKC = torch.empty(self._world_size, *mine_KC.shape, dtype=mine_KC.dtype)
        self._size.fill_(next_size)
        self._group.gather([list(all_WKC.unbind())], [mine_KC], self._to_first).wait()
        self._group.broadcast([self._size], self._from_first).wait()
        return Exchanged(all_WKC.numpy(), next_size)


def next_size(size: int, lasted_s: float) -> int:
    """Choose the next window's steps so that it lasts about `TARGET_S`; at most twice as many as the last one's."""
    wanted = size * TARGET_S / lasted_s if lasted_s > 0 else math.inf
    return max(1, int(min(wanted, 2 * size, MAX_STEPS)))


def table(times_s: Sequence[float], waits_s: Sequence[float], losses: Sequence[float], results: Sequence[Any]) -> Any:
    """Put a rank's measurements of K steps into a float64 table [K, C]."""
    table_KC = np.empty((len(times_s), len(Column)))
    table_KC[:, Column.TIME_S] = times_s
    table_KC[:, Column.DATA_S] = waits_s
    table_KC[:, Column.LOSS_SUM] = losses
    table_KC[:, Column.WEIGHT] = [result.weight for result in results]
    table_KC[:, Column.APPLIED] = [result.applied for result in results]
    return table_KC


def losses_of(results: Sequence[Any]) -> list[float]:
    """Return the summed losses of steps as numbers: tensors are fetched from a device together, None counts as 0."""
    sums = [result.loss_sum for result in results]
    if not sums or not all(hasattr(value, "detach") for value in sums):
        return [0.0 if value is None else float(value) for value in sums]
    if sums[0].device.type == "cpu":
        return [value.item() for value in sums]
    import torch

    with torch.no_grad():
        fetched: list[float] = torch.stack(sums).double().cpu().tolist()
    return fetched


def to_records(table_WKC: Any, first_step: int) -> list[Step]:
    """Reduce the measurements of all ranks to one record a step."""
    times_WK = table_WKC[..., Column.TIME_S]
    weights_K, losses_K = table_WKC[..., Column.WEIGHT].sum(0), table_WKC[..., Column.LOSS_SUM].sum(0)
    # Over the whole window at once: step by step, NumPy's calls cost more than all else that is measured.
    columns = (
        times_WK.max(0),
        times_WK.min(0),
        times_WK.mean(0),
        times_WK.argmax(0),
        table_WKC[..., Column.DATA_S].max(0),
        np.divide(losses_K, weights_K, out=np.full_like(losses_K, math.nan), where=weights_K != 0),
        weights_K,
        table_WKC[..., Column.APPLIED].all(0),
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        Step(
            step=first_step + k,
            time_s=time_s,
            time_min_s=time_min_s,
            time_mean_s=time_mean_s,
            slowest=slowest,
            data_s=data_s,
            loss=loss if math.isfinite(loss) else None,
            weight=weight,
            applied=applied,
        )
        for k, (time_s, time_min_s, time_mean_s, slowest, data_s, loss, weight, applied) in enumerate(rows)
    ]
