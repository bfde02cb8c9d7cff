"""What hpcpar's trainers cost beside plain XGBoost and plain scikit-learn, in one run.

    python benchmarks/boosting.py
    python benchmarks/boosting.py --blocks 400 --rows 100000

Blocks A B B A of whole trainings in one process: plain, hpcpar, hpcpar, plain. A block gives one ratio (the two of
hpcpar over the two plain ones), so that a machine whose speed drifts drifts for both. Judged is the upper end of the
95 % bootstrap interval of the median over blocks. Exit code 1 when a bound is not shown to hold.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable

import torch
from overhead import interval

from hpcpar import registry
from hpcpar.mesh import Mesh
from hpcpar.spec import Identity
from hpcpar.worker import facts
from hpcpar.worker.context import JobContext
from hpcpar.worker.measure.clock import CpuClock
from hpcpar.worker.measure.loop import train
from hpcpar.worker.measure.window import exchange_alone
from hpcpar.worker.rank import RankInfo

BOUND = 1.02
ROUNDS = 10
FITS = 1


def context(rows: int, cpus: int = 1) -> JobContext:
    info = RankInfo(
        rank=0,
        local_rank=0,
        node_rank=0,
        nodes=1,
        world_size=1,
        hostnames=("here",),
        attempt="1.0",
        job_id="1",
        cpus_asked=cpus,
        scheduler="local",
        node_name="here",
    )
    identity = Identity(
        **dict.fromkeys(("cluster", "node_type", "workload", "strategy"), "-"),
        workload_options={},
        strategy_options={},
        **dict.fromkeys(("nodes", "ranks_per_node", "cpus_per_rank", "grad_accum", "steps", "repeat"), 1),
        **dict.fromkeys(("micro_batch", "global_batch"), rows),
        mesh=Mesh(),
        seed=0,
    )
    return JobContext(info=info, identity=identity, device=torch.device("cpu"), groups={})


def boosting(rows: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Time the rounds alone: both sides get rows that are binned already."""
    import xgboost

    from hpcpar.worker.trees import grow

    work = registry.get_workload("xgboost")
    loaded = work.load(work.Options(), 0)
    settings = grow.parameters(context(rows), loaded)
    shard = grow.load_shard(context(rows), loaded, settings)

    def plain() -> float:
        begun = time.perf_counter()
        evals = [(shard.evaluation, "evaluation")]
        xgboost.train(settings, shard.training, ROUNDS, evals=evals, verbose_eval=False)
        return time.perf_counter() - begun

    def ours() -> float:
        begun = time.perf_counter()
        train(grow.Grower(settings, loaded, shard), ROUNDS, CpuClock(), exchange_alone, lambda _steps: None)
        return time.perf_counter() - begun

    return plain, ours


def fitting(name: str, strategy: str, jobs: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Fit with the same n_jobs and backend on both sides; workers that joblib keeps are the same on both."""
    import joblib

    from hpcpar.worker.workloads import estimator_fits
    from hpcpar.worker.workloads.estimator_list import ESTIMATORS

    known = ESTIMATORS[name]
    work, spread = registry.get_workload("estimator"), registry.get_strategy(strategy)
    backend = {"threads": "threading", "processes": "loky"}[strategy]
    inner = {"inner_max_num_threads": 1} if backend == "loky" else {}

    def plain() -> float:
        fit = estimator_fits.prepare(name, known, 0, known.rows, jobs)  # as the other side: data that no cache has yet
        begun = time.perf_counter()
        with joblib.parallel_config(backend=backend, n_jobs=jobs, **inner):
            for _ in range(FITS):
                fit()
        return time.perf_counter() - begun

    def ours() -> float:
        built = spread.build(context(known.rows, jobs), work.load(work.Options(estimator=name), 0), spread.Options())
        with contextlib.closing(built):
            begun = time.perf_counter()
            train(built, FITS, CpuClock(), exchange_alone, lambda _steps: None)
            return time.perf_counter() - begun

    return plain, ours


def measure(name: str, sides: tuple[Callable[[], float], Callable[[], float]], blocks: int) -> bool:
    plain, ours = sides
    plain(), ours()
    ratios = []
    for _ in range(blocks):
        first, second, third, fourth = plain(), ours(), ours(), plain()
        ratios.append((second + third) / (first + fourth))
    low, high = interval(ratios)
    verdict = "ok" if high <= BOUND else "over" if low > BOUND else "not shown"
    value = statistics.median(ratios)
    print(f"{name:50s} {value:.4f} [{low:.4f}, {high:.4f}]  {blocks} blocks  {verdict} (bound {BOUND})", flush=True)
    return verdict == "ok"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=100)
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    if given.blocks < 2:
        parser.error("--blocks: an interval needs at least 2")
    held = measure("xgb-collective on one rank / plain", boosting(given.rows), given.blocks)
    for name, strategy, jobs in (
        ("RandomForestClassifier", "threads", 1),
        ("RandomForestClassifier", "threads", 2),
        ("GridSearchCV", "processes", 2),
    ):
        if jobs <= facts.usable_cpus():
            held &= measure(f"{strategy} / plain {name}, n_jobs={jobs}", fitting(name, strategy, jobs), given.blocks)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
