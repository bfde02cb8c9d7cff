"""Size-up: the machine stays, the work of an update grows. Z(m) = T(p, m W) / T(p, W), at most m where all is well.

Source: X. Xu, J. Jaeger, H.-P. Kriegel, A Fast Parallel Clustering Algorithm for Large Spatial Databases, Data Mining
and Knowledge Discovery 3(3), 1999. The work is the global batch; model and sequence stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from msgspec import Struct

from hpcpar.analysis.judging import intervals
from hpcpar.analysis.judging.comparability import disturbed, reasons
from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.judging.metrics import METRICS
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.series import option_labels

_THROUGHPUT = next(metric for metric in METRICS if metric.name == "throughput")
_SAME = (
    "cluster",
    "node_type",
    "workload",
    "workload_options",
    "ranks_per_node",
    "cpus_per_rank",
    "strategy",
    "strategy_options",
    "nodes",
)


class SizeUp(Struct, frozen=True, kw_only=True):
    """One row of a size-up table: a strategy on one machine at one global batch."""

    workload: str
    cluster: str
    node_type: str
    strategy: str
    nodes: int
    ranks: int
    global_batch: int
    factor: float
    """m: this batch over the smallest."""
    runs: int
    step_time_s: Estimate
    sizeup: Estimate | None = None
    """Z; exactly 1 for the smallest batch, None where the runs are no evidence."""
    time_per_work: Estimate | None = None
    """Z / m: below 1, larger batches use the machine better."""
    flags: tuple[str, ...] = ()


def sizeups(rows: Sequence[Row]) -> tuple[SizeUp, ...]:
    """Make the size-up tables: every strategy and machine size that ran at several global batches."""
    labels = option_labels([row for row in rows if row.nodes])
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.usable:
            groups[tuple(getattr(row, name) for name in _SAME)].append(row)
    return tuple(one for members in groups.values() for one in _of_machine(members, labels))


def _of_machine(rows: Sequence[Row], labels: dict[tuple[str, str], str]) -> Iterator[SizeUp]:
    by_batch: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_batch[row.global_batch].append(row)
    if len(by_batch) < 2:
        return
    smallest = min(by_batch)
    for batch, runs in sorted(by_batch.items()):
        yield _row(batch, runs, by_batch[smallest], labels[runs[0].strategy, runs[0].strategy_options])


def _row(batch: int, runs: Sequence[Row], base: Sequence[Row], label: str) -> SizeUp:
    first, smallest = runs[0], base[0].global_batch
    times, base_times = ([row.step_time_s for row in side if row.step_time_s] for side in (runs, base))
    factor = batch / smallest
    # Weak and strong ladders, and studies, may meet here: what scaling was declared does not change an update.
    flags = reasons(base, runs, _THROUGHPUT, frozenset({"scaling"})) if runs is not base else disturbed(runs)
    z = None if flags else Estimate(1.0) if runs is base else intervals.ratio(times, base_times)
    return SizeUp(
        workload=first.workload,
        cluster=first.cluster,
        node_type=first.node_type,
        strategy=label,
        nodes=first.nodes,
        ranks=first.ranks,
        global_batch=batch,
        factor=factor,
        runs=len(runs),
        step_time_s=intervals.mean(times),
        sizeup=z,
        time_per_work=None if z is None else z.times(1 / factor),
        flags=tuple(dict.fromkeys(flags)),
    )
