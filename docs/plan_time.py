"""Predicted beside measured step times: rates are fitted to runs on two ranks, and the other sizes are predicted.

All ranks are on this machine. Each has one thread; where there are more ranks than processors they take turns, and the
plan counts on that. So the table says how well rates, work and messages are known, and nothing about scaling.
"""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from plan_runs import finished, submit, traced

from hpcpar.control.forecast.clock import Clock, Seen, calibrated, cpu_rates, first_clock, step_time
from hpcpar.control.forecast.forecast import plain
from hpcpar.control.forecast.layout import Layout, layout_of
from hpcpar.control.forecast.times import step_time_of
from hpcpar.control.forecast.work import Work, work
from hpcpar.spec import Identity

MODELS = {
    "small": "dim=128 hidden=384 layers=6 heads=8 kv_heads=8 vocabulary=512 sequence=128",
    "large": "dim=256 hidden=768 layers=8 heads=8 kv_heads=8 vocabulary=1024 sequence=128",
}
FITTED = 2
"""Ranks of the runs that rates are fitted to."""
SIZES = {1: ("single",), 2: ("ddp", "fsdp", "tp", "pp"), 4: ("ddp", "fsdp", "tp", "pp")}
REPEATS, STEPS, WARMUP = 3, 15, 5
HEAD = """Made by `make plan ONLY=time`: `llama-tiny` in two sizes (`docs/plan_time.py` has their options), fp32, AdamW,
a global batch of 16, one thread a rank, {repeats} repeats of {kept} steps, on {cpus} processors of one machine. Rates
are fitted to the runs on {fitted} ranks alone; naive is constant efficiency, fitted to the same runs. Ranks beyond the
processors take turns, in both.
"""


class Cell(NamedTuple):
    """Runs that differ in their repeat only."""

    model: str
    identity: Identity
    work: Work
    time_s: float
    spread: float
    """Largest over smallest repeat, minus 1."""


def run(root: Path, only: str) -> None:
    """Run all cells, or those that have a word in their line."""
    for model, shape in MODELS.items():
        for nodes, strategies in SIZES.items():
            for strategy in strategies:
                if only not in f"{model} {strategy} {nodes}":
                    continue
                words = f"--workload llama-tiny --strategy {strategy} --nodes {nodes} --global-batch 16 --steps {STEPS}"
                words += f" --warmup-steps {WARMUP} --repeats {REPEATS}"
                sets = [word for pair in shape.split() for word in ("--set", pair)]
                submit(root / "time", model, [*words.split(), *sets])


def cells(root: Path) -> list[Cell]:
    """Read the runs, and what they had to do."""
    several: dict[str, list[tuple[str, Identity, float]]] = defaultdict(list)
    for study, folder, spec in finished(root / "time"):
        time_s = step_time_of(folder, spec)
        assert time_s is not None, folder.path
        several[_same(spec.identity)].append((study, spec.identity, time_s))
    return [_cell(runs) for runs in several.values()]


def _same(identity: Identity) -> str:
    return f"{identity.workload_options} {identity.strategy} {identity.nodes}"


def _cell(runs: list[tuple[str, Identity, float]]) -> Cell:
    model, identity, _ = runs[0]
    times = [time_s for _, _, time_s in runs]
    layout = layout_of(identity, gpu=False, cpus=len(os.sched_getaffinity(0)))
    assert isinstance(layout, Layout), layout
    shapes, (units, useful) = traced(identity, [layout.case, plain(layout)])
    todo = work(units, useful, layout, shapes.answer)
    return Cell(model, identity, todo, statistics.median(times), max(times) / min(times) - 1)


def fitted(found: list[Cell]) -> Clock:
    """Fit rates to the runs of one size."""
    seen = [Seen(work=c.work, ranks=c.identity.world_size, time_s=c.time_s) for c in found if _ranks(c) == FITTED]
    return calibrated(first_clock(cpu_rates(1)), seen)


def _ranks(cell: Cell) -> int:
    return cell.identity.world_size


def table(found: list[Cell]) -> str:
    """Print all cells and the errors at the sizes that were not fitted."""
    clock = fitted(found)
    head = HEAD.format(
        repeats=REPEATS, kept=STEPS - WARMUP, cpus=len(os.sched_getaffinity(0)), fitted=FITTED
    ).splitlines()
    heads = ["model", "ranks", "strategy", "measured (ms)", "repeats apart (%)", "predicted (ms)", "off (%)",
             "naive (ms)", "off (%)"]  # fmt: skip
    lines = [*head, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    offs: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for cell in sorted(found, key=lambda c: (c.model, _ranks(c), c.identity.strategy)):
        time = step_time(cell.work, clock, _ranks(cell))
        off, naive = time.expected / cell.time_s - 1, time.naive / cell.time_s - 1
        offs[_ranks(cell)].append((abs(off), abs(naive)))
        lines.append(
            f"| {cell.model} | {_ranks(cell)} | {cell.identity.strategy} | {cell.time_s * 1e3:.0f} | {cell.spread:.1%} "
            f"| {time.expected * 1e3:.0f} | {off * 100:+.1f} | {time.naive * 1e3:.0f} | {naive * 100:+.1f} |"
        )
    return "\n".join([*lines, "", *_summary(offs), ""])


def _summary(offs: dict[int, list[tuple[float, float]]]) -> Iterator[str]:
    sizes = {**{f"{ranks} ranks": offs[ranks] for ranks in sorted(offs)}}
    sizes["all sizes that were not fitted"] = [pair for ranks in offs if ranks != FITTED for pair in offs[ranks]]
    for name, pairs in sizes.items():
        if pairs:
            ours, naive = (statistics.fmean(pair[i] for pair in pairs) for i in (0, 1))
            fit = " (fitted)" if name == f"{FITTED} ranks" else ""
            yield f"- {name}{fit}: off by {ours:.1%} on average, naive by {naive:.1%}"
