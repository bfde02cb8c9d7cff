"""What hpcpar's trainer and its measuring loop cost, beside the smallest loop written by hand for the same strategy.

    python benchmarks/overhead.py                       (what `make overhead` calls)
    python benchmarks/overhead.py --rounds 4 --steps 5 --strategies single ddp --no-write

Both train the same model in one process group, in blocks A B B A (A: the loop of hand_loops.py, B: hpcpar). A round
gives one ratio of median step times, so that a machine whose speed drifts drifts for both; the verdict is the upper
bound of the bootstrap interval of the median ratio. Peak memory comes from fresh processes that train with one of the
two only, a model that is larger than Python and its modules. Ranks are bound to CPUs, as Slurm binds them. Exit code 1
when a bound is passed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))  # for the processes that are forked from a server

BOUND = 1.01
"""Of step time, by the upper bound of its interval."""
MEMORY_BOUND = 1.01
"""Of peak memory: allocators of two processes that do the same differ by less (measured)."""
MEMORY_RUNS = 3
BUSY = 1.5
"""Load over CPUs above which figures are not to be believed."""
SETTLE_S = 180.0
PRELOAD = ["torch", "torch.distributed.fsdp", "torch.distributed.pipelining", "torch.distributed.tensor.parallel"]
MODEL = {"dim": 128, "heads": 4, "kv_heads": 2, "hidden": 256, "layers": 6, "sequence": 64}
LARGE = {"dim": 512, "heads": 8, "kv_heads": 8, "hidden": 1536, "layers": 8, "sequence": 64}
"""For memory: with AdamW some 400 MB of state."""
LARGE_EXPERTS = {**LARGE, "hidden": 192}
BATCH = 16

Side = Literal["both", "hand", "hpcpar"]


class Subject(NamedTuple):
    """A strategy with its options, and how many ranks and micro-batches it is measured with."""

    options: dict[str, Any]
    ranks: int
    micro_batches: int = 1
    workload: str = "llama-tiny"
    large: dict[str, int] = LARGE


SUBJECTS = {
    "single": Subject({}, 1),
    "ddp": Subject({}, 2),
    "fsdp": Subject({}, 2),
    "tp": Subject({}, 2),
    "cp": Subject({}, 2),
    "ep": Subject({}, 2, workload="llama-moe", large=LARGE_EXPERTS),
    "pp": Subject({"schedule": "1f1b"}, 2, 4),
    "hybrid": Subject({"mesh": "pp=2,dp=2"}, 4, 2),
}


class Finding(NamedTuple):
    """What the rounds of one strategy gave: medians in milliseconds, memory in bytes of the largest rank."""

    strategy: str
    ranks: int
    hand_ms: float
    hpcpar_ms: float
    ratio: float
    low: float
    high: float
    wall_ratio: float
    hand_bytes: int
    hpcpar_bytes: int

    @property
    def over(self) -> list[str]:
        """What is above its bound."""
        words = [f"step time {self.high:.3f}"] if self.high > BOUND else []
        memory = self.hpcpar_bytes / self.hand_bytes
        return words + ([f"memory {memory:.3f}"] if memory > MEMORY_BOUND else [])


# ---------------------------------------------------------------- in the ranks


def rank_main(rank: int, strategy: str, side: Side, rounds: int, steps: int, folder: str, end: Any) -> None:
    """Train on one rank of one strategy, and send what was measured."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[rank % len(cpus)]})
    subject = SUBJECTS[strategy]
    store = distributed.FileStore(f"{folder}/{strategy}-{side}", subject.ranks)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=subject.ranks)
    runners = make_runners(strategy, side, rank, Path(folder))
    order = {"both": "ABBA", "hand": "A", "hpcpar": "B"}[side]
    for letter in dict.fromkeys(order):
        runners[letter](steps)  # memory is allocated, pipelines learn their shapes
    found = [[(letter, *_timed(runners[letter], steps)) for letter in order] for _ in range(rounds)]
    end.send((found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    distributed.barrier()
    distributed.destroy_process_group()


def _timed(run: Any, steps: int) -> tuple[float, float]:
    """Return the median step time of a block (slowest rank of every step) and the block's wall time a step."""
    from torch import distributed

    distributed.barrier()
    begun = time.perf_counter()
    times_s = run(steps)
    wall_s = (time.perf_counter() - begun) / steps
    everybody: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everybody, times_s)
    return statistics.median(map(max, zip(*everybody, strict=True))), wall_s


def make_runners(strategy: str, side: Side, rank: int, folder: Path) -> dict[str, Any]:
    """Return "A" and "B": functions that do so many steps and return this rank's time of each."""
    import msgspec
    import torch
    from hand_loops import LOOPS, Job

    from hpcpar import registry
    from hpcpar.registry import World

    subject, work = SUBJECTS[strategy], registry.get_workload(SUBJECTS[strategy].workload)
    spread = registry.get_strategy(strategy)
    options = msgspec.convert(subject.options, spread.Options)
    mesh = spread.layout(World(1, subject.ranks), options)
    model = MODEL if side == "both" else subject.large
    loaded = work.load(msgspec.convert(model, work.Options), 0)
    context = _context(strategy, mesh, subject, rank)
    runners: dict[str, Any] = {}
    if side != "hpcpar":
        device = torch.device("cpu")
        mesh, samples = context.device_mesh, _Shuffled(loaded.samples)
        job = Job(rank, mesh, loaded.units, samples, BATCH, subject.micro_batches, device, initialise=_first(loaded))
        runners["A"] = _by_hand(LOOPS[strategy](job))
    if side != "hand":
        runners["B"] = _by_hpcpar(spread.build(context, loaded, options), subject.ranks, rank, folder)
    return runners


def _context(strategy: str, mesh: Any, subject: Subject, rank: int) -> Any:
    import torch

    from hpcpar.spec import Identity
    from hpcpar.worker.context import make_context
    from hpcpar.worker.rank import RankInfo

    identity = Identity(
        cluster="local", node_type="any", workload=subject.workload, workload_options={}, strategy=strategy,
        strategy_options={}, mesh=mesh, nodes=1, ranks_per_node=subject.ranks, cpus_per_rank=1,
        micro_batch=BATCH // mesh.data_ranks // subject.micro_batches, grad_accum=subject.micro_batches,
        global_batch=BATCH, steps=1000, seed=0, repeat=1,
    )  # fmt: skip
    info = RankInfo(
        rank=rank, local_rank=rank, node_rank=0, nodes=1, world_size=subject.ranks, hostnames=("here",),
        attempt="1.0", job_id="1", cpus_asked=1, scheduler="local", node_name="here",
    )  # fmt: skip
    return make_context(info, identity, torch.device("cpu"))


class _Shuffled:
    """The samples in the order in which hpcpar takes them: a mixture's busiest rank holds what its samples send there,
    so that memory could not be compared over different ones."""

    def __init__(self, samples: Any) -> None:
        from hpcpar.worker.sampling import Sampler

        self._samples, self._ids = samples, Sampler(len(samples), len(samples), 0).ids(1)

    def __len__(self) -> int:
        return len(self._samples)

    def fetch(self, places_B: Any) -> Any:
        return self._samples.fetch(self._ids[places_B])


def _first(loaded: Any) -> Any:
    """Return what gives a loop by hand the same first weights as hpcpar's, for the same reason."""
    from hpcpar.worker.mesh_engine.weights import generator

    return lambda name, values: loaded.initialise(name, values, generator(loaded.seed, name))


def _by_hand(step: Any) -> Any:
    def run(steps: int) -> list[float]:
        times_s = []
        for number in range(steps):
            begun = time.perf_counter()
            step(number)
            times_s.append(time.perf_counter() - begun)
        return times_s

    return run


def _by_hpcpar(trainer: Any, ranks: int, rank: int, folder: Path) -> Any:
    """Train as a job does: hpcpar's loop and clock, windows brought to rank 0, records written to a file."""
    import msgspec
    from torch import distributed

    from hpcpar.storage import append_line
    from hpcpar.worker.measure.clock import CpuClock
    from hpcpar.worker.measure.loop import train
    from hpcpar.worker.measure.window import GroupExchange, exchange_alone

    exchange = GroupExchange(distributed.group.WORLD, rank, ranks) if ranks > 1 else exchange_alone
    times_s: list[float] = []

    class Clock(CpuClock):
        def seconds(self, marks: Sequence[float]) -> list[float]:
            found = super().seconds(marks)
            times_s.extend(found)
            return found

    def write(records: Sequence[Any]) -> None:
        append_line(folder / "steps.jsonl", b"\n".join(map(msgspec.json.encode, records)))

    def run(steps: int) -> list[float]:
        times_s.clear()
        train(_WithData(trainer), steps, Clock(), exchange, write)
        return list(times_s)

    return run


class _WithData:
    """Fetches inside the step, so that both sides count the same: hpcpar's own step times leave the data out."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def batch(self, step: int) -> int:
        return step

    def step(self, batch: int) -> Any:
        return self._trainer.step(self._trainer.batch(batch))


# ---------------------------------------------------------------- outside of them


def measure(strategy: str, rounds: int, steps: int) -> Finding:
    """Measure one strategy."""
    answers = run_ranks(strategy, "both", rounds, steps)
    found: list[list[tuple[str, float, float]]] = answers[0][0]
    ratios, walls = _ratios(found, 1), _ratios(found, 2)
    low, high = interval(ratios)
    memory = _memory(strategy)
    medians = [1000 * statistics.median(b[1] for r in found for b in r if b[0] == letter) for letter in "AB"]
    ratio = statistics.median(ratios)
    ranks = SUBJECTS[strategy].ranks
    return Finding(
        strategy, ranks, *medians, ratio, low, high, statistics.median(walls), memory["hand"], memory["hpcpar"]
    )


def _memory(strategy: str) -> dict[str, int]:
    """Return the peak of the largest rank of both sides: the least of processes in turn, as allocators only add."""
    sides: tuple[Side, ...] = ("hand", "hpcpar")
    peaks: dict[str, list[int]] = {side: [] for side in sides}
    for _ in range(MEMORY_RUNS):
        for side in sides:
            peaks[side].append(max(peak for _, peak in run_ranks(strategy, side, 1, 1)))
    return {side: min(found) for side, found in peaks.items()}


def _ratios(found: Iterable[Sequence[tuple[str, float, float]]], column: int) -> list[float]:
    return [(b[column] + c[column]) / (a[column] + d[column]) for a, b, c, d in found]


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median (Efron, Annals of Statistics 7, 1979)."""
    import numpy as np
    from scipy.stats import bootstrap

    if len(set(ratios)) == 1:
        return ratios[0], ratios[0]
    result = bootstrap((np.array(ratios),), np.median, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def run_ranks(strategy: str, side: Side, rounds: int, steps: int) -> list[Any]:
    """Start the ranks of a strategy, forked from a server that has torch; return what each sent."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory(prefix="hpcpar-bench-") as folder:
        ends, processes = [], []
        for rank in range(SUBJECTS[strategy].ranks):
            here, there = context.Pipe()
            arguments = (rank, strategy, side, rounds, steps, folder, there)
            processes.append(context.Process(target=rank_main, args=arguments, daemon=True))
            processes[-1].start()
            there.close()
            ends.append(here)
        answers = [end.recv() for end in ends]  # EOFError where a rank has died: its traceback is above
        for process in processes:
            process.join()
    return answers


def cpu_name() -> str:
    """Return the processor's name, as /proc/cpuinfo has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def table(findings: Sequence[Finding], rounds: int, steps: int, load: float) -> Iterator[str]:
    """Yield the lines of a Markdown page."""
    import torch

    cpus = len(os.sched_getaffinity(0))
    yield f"# hpcpar beside loops written by hand, on {cpu_name()} ({cpus} CPUs)"
    yield ""
    yield f"Made by `python benchmarks/overhead.py --rounds {rounds} --steps {steps}`, torch {torch.__version__}, "
    yield f"llama-tiny (ep: llama-moe) {MODEL}, for memory {LARGE} (ep: hidden {LARGE_EXPERTS['hidden']}), "
    yield f"batch {BATCH}. Load when it began: {load:.1f}."
    if load > BUSY * cpus / 2:
        yield ""
        yield "**The machine was busy: these figures show that the benchmark runs, and nothing else.**"
    yield ""
    yield "| strategy | ranks | by hand (ms) | hpcpar (ms) | ratio [95 %] | wall ratio | memory (MiB) | verdict |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from map(row, findings)


def row(one: Finding) -> str:
    """Return a strategy's line of the table."""
    memory = f"{one.hand_bytes / 2**20:.0f} / {one.hpcpar_bytes / 2**20:.0f}"
    ratio = f"{one.ratio:.3f} [{one.low:.3f}, {one.high:.3f}]"
    verdict = f"over: {', '.join(one.over)}" if one.over else "ok"
    return (
        f"| {one.strategy} | {one.ranks} | {one.hand_ms:.1f} | {one.hpcpar_ms:.1f} | {ratio} "
        f"| {one.wall_ratio:.3f} | {memory} | {verdict} |"
    )


def load_once_settled() -> float:
    """Return the load; what ran just before is in it for a minute or two, and is waited for."""
    until = time.monotonic() + SETTLE_S
    while (load := os.getloadavg()[0]) > BUSY * len(os.sched_getaffinity(0)) / 2 and time.monotonic() < until:
        time.sleep(1)
    return load


def main() -> int:
    """Measure, print, write, judge."""
    parser = argparse.ArgumentParser(description="Measure hpcpar's training loop beside loops written by hand.")
    parser.add_argument("--rounds", type=int, default=200, help="rounds of four blocks a strategy (default: 200)")
    parser.add_argument("--steps", type=int, default=2, help="steps a block (default: 2; noise lasts longer)")
    parser.add_argument("--strategies", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="NAME")
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    if given.rounds < 2 or given.steps < 1:
        parser.error("--rounds must be at least 2 and --steps at least 1")
    load = load_once_settled()
    findings = []
    for strategy in given.strategies:
        print(f"{strategy} ...", file=sys.stderr, flush=True)
        findings.append(measure(strategy, given.rounds, given.steps))
        print(row(findings[-1]), file=sys.stderr, flush=True)
    lines = list(table(findings, given.rounds, given.steps, load))
    print("\n".join(lines))
    if not given.no_write:
        name = "-".join("".join(c if c.isalnum() else " " for c in cpu_name()).lower().split())
        target = Path(__file__).parent / "results" / f"overhead-{name}.md"
        target.parent.mkdir(exist_ok=True)
        target.write_text("\n".join(lines) + "\n")
    return int(any(finding.over for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
