"""What the measurement itself costs, at steps of 10 ms: clocks, windows, their exchange and the records.

    python benchmarks/measurement.py [--rounds 10 --steps 600]

The loop of every run (worker/measure/loop.py) beside a bare `for` with the same trainer, which computes for 10 ms of
processor time a step, in blocks A B B A in one process group. Judged is processor time: other work on the machine
makes it no longer. Wall time stands beside it. Exit code 1 when the upper bound of an interval passes 0.5 %.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # for the processes that are forked from a server
from overhead import interval

STEP_S = 0.010
BOUND = 1.005
RANKS = (1, 2)


class Block(NamedTuple):
    """Seconds a step."""

    cpu_s: float
    wall_s: float


class Busy:
    """A trainer that does nothing but compute for 10 ms, and has a loss as others have."""

    def __init__(self) -> None:
        import torch

        from hpcpar.registry import StepResult

        self._result = StepResult(torch.tensor(1.0), 1.0, True)

    def batch(self, step: int) -> int:
        """Fetch nothing."""
        return step

    def step(self, batch: int) -> Any:
        """Compute."""
        until = time.thread_time() + STEP_S
        while time.thread_time() < until:
            pass
        return self._result


def rank_main(rank: int, ranks: int, rounds: int, steps: int, folder: str, end: Any) -> None:
    """Run the blocks on one rank; rank 0 sends them."""
    import torch
    from torch import distributed

    from hpcpar.worker.measure.window import GroupExchange, exchange_alone

    torch.set_num_threads(1)
    exchange: Any = exchange_alone
    if ranks > 1:
        store = distributed.FileStore(f"{folder}/store", ranks)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
        exchange = GroupExchange(distributed.group.WORLD, rank, ranks)
    runs = {"A": _bare, "B": _measured(exchange, Path(folder))}
    runs["B"](10)
    found = [[_timed(runs[letter], steps, ranks) for letter in "ABBA"] for _ in range(rounds)]
    end.send(found)
    if ranks > 1:
        distributed.destroy_process_group()


def _bare(steps: int) -> None:
    trainer = Busy()
    for step in range(1, steps + 1):
        trainer.step(trainer.batch(step))


def _measured(exchange: Any, folder: Path) -> Any:
    import msgspec

    from hpcpar.storage import append_line
    from hpcpar.worker.measure.clock import CpuClock
    from hpcpar.worker.measure.loop import train

    def write(records: Sequence[Any]) -> None:
        append_line(folder / "steps.jsonl", b"\n".join(map(msgspec.json.encode, records)))

    return lambda steps: train(Busy(), steps, CpuClock(), exchange, write)


def _timed(run: Any, steps: int, ranks: int) -> Block:
    if ranks > 1:
        from torch import distributed

        distributed.barrier()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    run(steps)
    return Block((time.process_time() - cpu_s) / steps, (time.perf_counter() - wall_s) / steps)


def measure(ranks: int, rounds: int, steps: int) -> list[list[Block]]:
    """Return the blocks of rank 0, round by round."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed"])
    with tempfile.TemporaryDirectory(prefix="hpcpar-bench-") as folder:
        ends, processes = [], []
        for rank in range(ranks):
            here, there = context.Pipe()
            arguments = (rank, ranks, rounds, steps, folder, there)
            processes.append(context.Process(target=rank_main, args=arguments, daemon=True))
            processes[-1].start()
            there.close()
            ends.append(here)
        answers = [end.recv() for end in ends]
        for process in processes:
            process.join()
    return list(answers[0])


def line(ranks: int, found: list[list[Block]]) -> tuple[str, bool]:
    """Return a row of the table, and whether it is within the bound."""
    cpu = [(b.cpu_s + c.cpu_s) / (a.cpu_s + d.cpu_s) for a, b, c, d in found]
    wall = [(b.wall_s + c.wall_s) / (a.wall_s + d.wall_s) for a, b, c, d in found]
    low, high = interval(cpu)
    cost_us = 1e6 * statistics.median((b.cpu_s + c.cpu_s - a.cpu_s - d.cpu_s) / 2 for a, b, c, d in found)
    ratio = f"{statistics.median(cpu):.5f} [{low:.5f}, {high:.5f}]"
    verdict = "ok" if high <= BOUND else "over"
    return f"| {ranks} | {cost_us:.1f} | {ratio} | {statistics.median(wall):.4f} | {verdict} |", high <= BOUND


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Measure what measuring costs at steps of 10 ms.")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of four blocks (default: 10)")
    parser.add_argument("--steps", type=int, default=600, help="steps a block (default: 600, six seconds)")
    given = parser.parse_args()
    if given.rounds < 2 or given.steps < 1:
        parser.error("--rounds must be at least 2 and --steps at least 1")
    print(f"{given.rounds} rounds of 4 x {given.steps} steps of 10 ms; load {os.getloadavg()[0]:.1f}\n")
    print("| ranks | cost a step (us) | processor time over bare [95 %] | wall time | verdict |")
    print("|---|---|---|---|---|")
    fine = True
    for ranks in RANKS:
        text, within = line(ranks, measure(ranks, given.rounds, given.steps))
        print(text, flush=True)
        fine &= within
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
