"""Measure the bubble of pipelines of known stage times, and what they keep; write docs/pipelines.md.

    make pipelines
    python benchmarks/pipelines.py --unit-ms 100 --steps 2

Stages sleep, so a processor that other work shares delays little. The fastest of the steps counts.
Exit code 1: a bubble is more than 2 percentage points from what the schedule's order says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "parallel"))

import bubbles  # noqa: E402
from pool import Pool  # noqa: E402

from hpcpar.schedules import SCHEDULES, ScheduleName  # noqa: E402

SIZES = ((2, 8), (4, 8))
POINTS = 0.02


class Row(NamedTuple):
    name: ScheduleName
    p: int
    m: int
    v: int
    formula: float | None
    order: float
    measured: float
    kept: list[int]
    kept_by_order: list[int]
    kept_by_formula: list[int | None]

    @property
    def agrees(self) -> bool:
        return abs(self.measured - self.order) <= POINTS and self.kept == self.kept_by_order


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the bubbles of pipelines whose stages sleep.")
    parser.add_argument(
        "--unit-ms", type=float, default=300.0, help="time of a stage's forward pass (a third of its work)"
    )
    parser.add_argument("--steps", type=int, default=3, help="the fastest of so many steps counts")
    arguments = parser.parse_args()
    rows = []
    for p, m in SIZES:
        pool = Pool(p, Path(tempfile.mkdtemp(prefix="hpcpar-pipelines-")))
        for name, v in _choices():
            if SCHEDULES[name].fills != "stages" or m >= p * v:
                rows.append(measure(pool, name, m, v, unit_s=arguments.unit_ms / 1000, steps=arguments.steps))
                print(line(rows[-1]), flush=True)
        pool.close()
    head = {"torch": torch.__version__.partition("+")[0], "unit_ms": arguments.unit_ms, "steps": arguments.steps}
    text = PAGE.format(rows="\n".join(line(row) for row in rows), points=100 * POINTS, **head)
    (ROOT / "docs" / "pipelines.md").write_text(text, encoding="utf-8")
    return 0 if all(row.agrees for row in rows) else 1


def _choices() -> list[tuple[ScheduleName, int]]:
    return [*((name, facts.stages_per_rank) for name, facts in SCHEDULES.items()), ("zero-bubble", 1)]


def measure(pool: Pool, name: ScheduleName, m: int, v: int, *, unit_s: float, steps: int) -> Row:
    p = pool.size
    times = pool.run("pipeline_cases.step_times", name=name, m=m, v=v, unit_s=unit_s / v, steps=steps)
    fastest = min(max(ranks) for ranks in zip(*times, strict=True))
    orders = bubbles.order(name, p, m, v)
    return Row(
        name=name,
        p=p,
        m=m,
        v=v,
        formula=bubbles.bubble(name, p, m, v),
        order=bubbles.simulated(orders, p * v),
        measured=1 - m * 3 * unit_s / fastest,
        kept=pool.run("pipeline_cases.most_kept", name=name, m=m, v=v),
        kept_by_order=[bubbles.kept(orders, rank) for rank in range(p)],
        kept_by_formula=[bubbles.kept_by_formula(name, p, m, v, rank) for rank in range(p)],
    )


def line(row: Row) -> str:
    formula = f"{row.formula:.1%}" if row.formula is not None else ""
    said = "" if None in row.kept_by_formula else ", ".join(map(str, row.kept_by_formula))
    counted, order = (", ".join(map(str, numbers)) for numbers in (row.kept, row.kept_by_order))
    sizes = f"{row.p} | {row.m} | {row.v}"
    shares = f"{formula} | {row.order:.1%} | {row.measured:.1%}"
    return f"| {row.name} | {sizes} | {shares} | {said} | {order} | {counted} | {'yes' if row.agrees else '**NO**'} |"


PAGE = """# Pipelines: bubbles and kept activations

Made by `make pipelines` with torch {torch} (gloo, processes of one machine): stages that sleep, so that their times
are known. A rank's share of the model takes {unit_ms:g} ms for the forward pass of a micro-batch, the same for the
gradients of inputs, and the same for the gradients of weights; with v stages a rank, each takes 1/v of it. The
fastest of {steps} steps counts.

p ranks, m micro-batches, v stages a rank. The bubble is the share of a step in which a rank has nothing to do.

- *formula*: as published: (p-1)/(m+p-1) for `gpipe` and `1f1b`, (p-1)/(vm+p-1) with v stages a rank, (p-1)/(3m+p-1)
  for ZB-H1, which is `zero-bubble` with v = 1. There is none for the other orders that torch makes.
- *order*: what the order in which torch lets each rank work comes to when messages take no time.
- *measured*: in a real pipeline; it must be within {points:g} percentage points of *order*.

Kept are activations for the backward pass: the most at a time, in stages x micro-batches, on rank 0, 1, ...; by
formula (`gpipe` and `looped-bfs`: mv; `1f1b`: p - rank; `interleaved-1f1b`: 2(p - rank - 1) + (v - 1)p + 1), by
torch's order, and counted by hooks on what autograd saves and gives back. A micro-batch of one stage is 1/v of the
activations of a rank's share.

`dualpipev` makes one action of a forward and a backward pass (a device with several streams can do both at a time; a
process that sleeps does one after the other), and other ranks hear of both when both are done.

| schedule | p | m | v | formula | order | measured | kept: formula | order | counted | agree |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}
"""

if __name__ == "__main__":
    sys.exit(main())
