"""What can only be shown on a GPU: strategies under NCCL, bf16 beside fp32, and llama-1b beside a plain PyTorch loop.

    python benchmarks/gpu_check.py                (what `make gpu-check` calls)

Without a GPU it says so and ends with exit code 2. Exit code 1 when a loss leaves its band or a bound is passed. The
result is written to benchmarks/results/gpu-NAME.md. One process, one GPU: a mesh of one rank has no axes, so this shows
that every strategy builds and trains on the device, not that its messages arrive.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from hand_loops import Job, single
from torch import distributed

from hpcpar import registry
from hpcpar.devices import peak_flops
from hpcpar.registry import World
from hpcpar.spec import Identity
from hpcpar.worker.context import make_context
from hpcpar.worker.rank import RankInfo

FP32_BAND = 1e-4
"""Between strategies, over six steps: kernels of one device add up in the same order, with room for atomics."""
BF16_BAND = 6e-3
"""Beside fp32, over six steps: as in tests/parallel/test_bands.py."""
LARGE, SEQUENCE, MICRO_BATCH = "llama-1b", 2048, 8
MFU_ASK, SPEED_ASK = 0.45, 0.99
WARM_UP, STEPS = 10, 30


class Speed(NamedTuple):
    """Of one training: seconds a step (median) and the most memory that tensors held."""

    step_s: float
    peak_bytes: int


def refusal() -> str:
    """Return why nothing can be run here; "" where there is a GPU."""
    if torch.cuda.is_available():
        return ""
    why = "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no device"
    return f"gpu-check needs an NVIDIA GPU: {why}. Nothing was run."


def peak_tflops(name: str) -> float | None:
    """Return the dense bfloat16 peak of a device, None where it is not known."""
    peak = peak_flops(name)
    return None if peak is None else peak / 1e12


def flops_per_token(num_parameters: int, num_looked_up: int, layers: int, dim: int, sequence: int) -> float:
    """Return the floating-point operations that a step needs for a token, forward and backward.

    6 (N - embedding) + 12 L d s: Chowdhery et al. 2022 (arXiv:2204.02311), appendix B; causal attention counted whole,
    the looked-up table not counted, as torchtitan does.
    """
    return 6.0 * (num_parameters - num_looked_up) + 12.0 * layers * dim * sequence


def build(strategy: str, workload: str, device: torch.device, *, batch: int, options: Any, shape: Any) -> Any:
    """Build a trainer for a world of one rank."""
    spread, work = registry.get_strategy(strategy), registry.get_workload(workload)
    given = msgspec.convert(options, spread.Options)
    identity = Identity(
        cluster="local", node_type="any", workload=workload, workload_options={}, strategy=strategy,
        strategy_options={}, mesh=spread.layout(World(1, 1), given), nodes=1, ranks_per_node=1, cpus_per_rank=1,
        micro_batch=batch, grad_accum=1, global_batch=batch, steps=1000, seed=0, repeat=1,
    )  # fmt: skip
    info = RankInfo(
        rank=0, local_rank=0, node_rank=0, nodes=1, world_size=1, hostnames=("here",), attempt="1.0", job_id="1",
        cpus_asked=1, scheduler="local", node_name="here",
    )  # fmt: skip
    loaded = work.load(msgspec.convert(shape, work.Options), 0)
    return spread.build(make_context(info, identity, device), loaded, given)


def mesh_strategies() -> list[str]:
    """Return the strategies that are points of the mesh."""
    return [name for name in registry.STRATEGIES if hasattr(registry.get_strategy(name), "engine")]


def losses(strategy: str, device: torch.device, precision: str, steps: int = 6) -> list[float]:
    """Train llama-tiny for some steps; return the loss of each."""
    shape = {"dim": 64, "hidden": 96, "layers": 4, "optimizer": "sgd", "lr": 0.05}
    trainer = build(strategy, "llama-tiny", device, batch=16, options={"precision": precision}, shape=shape)
    results = [trainer.step(trainer.batch(step)) for step in range(1, steps + 1)]
    return [float(result.loss_sum) / result.weight for result in results]


def parity(device: torch.device, names: Sequence[str]) -> Iterator[tuple[str, float, float]]:
    """Yield strategy, distance of fp32 from `single`, and of bf16 from fp32."""
    reference = losses("single", device, "fp32")
    for name in names:
        found = [losses(name, device, precision) for precision in ("fp32", "bf16")]
        exact, rounded = (max(abs(a - b) for a, b in zip(one, reference, strict=True)) for one in found)
        yield name, exact, rounded


def large(device: torch.device) -> tuple[Speed, Speed, float, dict[str, Any]]:
    """Train llama-1b by hand and under hpcpar, in the order A B B A; return both, FLOPs a step, and the options."""
    options = {"precision": "bf16", "compile": True}
    shape = {"sequence": SEQUENCE, "optimizer": "adamw-fused"}
    work = registry.get_workload(LARGE)
    given = msgspec.convert(shape, work.Options)
    loaded = work.load(given, 0)

    def by_hand() -> Callable[[int], Any]:
        job = Job(0, None, loaded.units, loaded.samples, MICRO_BATCH, 1, device, bf16=True, compile=True, fused=True)
        return single(job)

    def by_hpcpar() -> Callable[[int], Any]:
        trainer = build("single", LARGE, device, batch=MICRO_BATCH, options=options, shape=shape)
        return lambda step: trainer.step(trainer.batch(step + 1))

    found: dict[str, list[Speed]] = {"A": [], "B": []}
    for letter in "ABBA":
        found[letter].append(speed({"A": by_hand, "B": by_hpcpar}[letter], device))
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in unit.build().parameters()) for unit in loaded.units]
    a_token = flops_per_token(sum(sizes), sizes[0], given.layers, given.dim, SEQUENCE)
    hand, hpcpar = (
        Speed(statistics.mean(s.step_s for s in some), max(s.peak_bytes for s in some)) for some in found.values()
    )
    return hand, hpcpar, a_token * MICRO_BATCH * SEQUENCE, {**options, **shape, "micro_batch": MICRO_BATCH}


def speed(make: Callable[[], Callable[[int], Any]], device: torch.device) -> Speed:
    """Build, warm up, time; everything that was allocated is given back."""
    from hpcpar.worker.measure.clock import CudaClock

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step, clock = make(), CudaClock()
    marks = []
    for number in range(WARM_UP + STEPS):
        marks.append(clock.mark())
        step(number)
        marks.append(clock.mark())
    timed_s = clock.seconds(marks)[WARM_UP:]
    return Speed(statistics.median(timed_s), torch.cuda.max_memory_allocated(device))


def page(name: str, rows: Sequence[tuple[str, float, float]]) -> Iterator[str]:
    """Yield the first part of the result page."""
    yield f"# hpcpar on one {name}"
    yield ""
    yield f"Made by `python benchmarks/gpu_check.py`, torch {torch.__version__}, CUDA {torch.version.cuda}."
    yield ""
    yield "| strategy | fp32 beside single | bf16 beside fp32 | verdict |"
    yield "|---|---|---|---|"
    for strategy, exact, rounded in rows:
        verdict = "ok" if exact <= FP32_BAND and rounded <= BF16_BAND else "out of band"
        yield f"| {strategy} | {exact:.1e} | {rounded:.1e} | {verdict} |"


def large_page(name: str, hand: Speed, hpcpar: Speed, flops: float, options: dict[str, Any]) -> Iterator[str]:
    """Yield the part about llama-1b."""
    peak, ratio = peak_tflops(name), hand.step_s / hpcpar.step_s
    yield ""
    yield f"{LARGE}: {json.dumps(options)}"
    yield ""
    yield "| | step (ms) | tokens/s | MFU | peak memory (GiB) |"
    yield "|---|---|---|---|---|"
    for label, one in (("plain PyTorch", hand), ("hpcpar", hpcpar)):
        mfu = "peak not known" if peak is None else f"{flops / one.step_s / peak / 1e12:.1%}"
        tokens = MICRO_BATCH * SEQUENCE / one.step_s
        yield f"| {label} | {1000 * one.step_s:.1f} | {tokens:.0f} | {mfu} | {one.peak_bytes / 2**30:.2f} |"
    yield ""
    reached = peak is not None and flops / hpcpar.step_s / peak / 1e12 >= MFU_ASK
    yield f"Asked: MFU >= {MFU_ASK:.0%}: {'reached' if reached else 'not reached'}; speed >= {SPEED_ASK} of the plain "
    yield f"loop: {ratio:.3f}, {'reached' if ratio >= SPEED_ASK else 'not reached'}; peak memory not above it: "
    yield "reached." if hpcpar.peak_bytes <= hand.peak_bytes else "not reached."


def main() -> int:
    """Check, print, write, judge."""
    reason = refusal()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    device = torch.device("cuda", 0)
    name = torch.cuda.get_device_name(device)
    with tempfile.TemporaryDirectory() as folder:
        store = distributed.FileStore(f"{folder}/store", 1)
        distributed.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=device)
        lines = list(page(name, list(parity(device, mesh_strategies()))))
        if LARGE in registry.names("workload"):
            lines += large_page(name, *large(device))
        else:
            lines += ["", f"There is no workload {LARGE}: its speed was not measured."]
        distributed.destroy_process_group()
    print("\n".join(lines))
    target = Path(__file__).parent / "results" / f"gpu-{'-'.join(name.lower().split())}.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines) + "\n")
    return int(any("out of band" in line or "not reached" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
