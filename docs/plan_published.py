"""Predicted beside published step times: training runs of others on GPUs that nobody here has.

The rows are those of docs/published/llm-foundry.csv. Their models (MPT) are traced as Llamas of the same width, depth,
heads, vocabulary and operations: a feed-forward layer of three matrices of width 8/3 d in place of two of 4 d.
"""

from __future__ import annotations

import csv
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpcpar import registry
from hpcpar.control.forecast.clock import Clock, Seen, calibrated, first_clock, gpu_rates, step_time
from hpcpar.control.forecast.layout import Layout
from hpcpar.control.forecast.work import Work, work
from hpcpar.devices import find_device
from hpcpar.mesh import Mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.shapes import Answer, Case, Model

TABLE = Path(__file__).resolve().parent / "published" / "llm-foundry.csv"
SOURCE = "[llm-foundry's benchmarks](https://github.com/mosaicml/llm-foundry/blob/main/scripts/train/benchmarking)"
SHAPES = {
    "125m": (768, 12, 12), "350m": (1024, 16, 24), "760m": (1536, 12, 24), "1b": (2048, 16, 24), "3b": (2560, 20, 32),
    "7b": (4096, 32, 32), "13b": (5120, 40, 40), "30b": (7168, 56, 48), "70b": (8192, 64, 80),
}  # fmt: skip
"""Width, heads, blocks: scripts/train/yamls/pretrain/mpt-*.yaml of the same commit."""
VOCABULARY = 50_368
GPUS = {"h100_80gb": "NVIDIA H100", "a100_80gb": "NVIDIA A100", "a100_40gb": "NVIDIA A100"}
RANKS_PER_NODE = 8


class Published(NamedTuple):
    """A row, and what it had to do."""

    model: str
    gpu: str
    gpus: int
    step_s: float
    work: Work
    counted: float
    """Operations of a rank as the source counts them: all attention, nothing that is computed again."""


def published(kept: Path) -> list[Published]:
    """Read and trace all bf16 rows; traces are kept in a folder."""
    with TABLE.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    # Rows in fp8 are too few (7) to leave one model out; fp8 has no rate of its own here.
    return [_published(row, kept) for row in rows if "fp8" not in row["precision"]]


def _published(row: dict[str, str], kept: Path) -> Published:
    sequence, gpus = int(row["sequence"]), int(row["gpus"])
    micro, accumulation = int(row["micro_batch"]), int(row["grad_accum"])
    options = EngineOptions(
        precision="bf16",
        activation_checkpointing="full" if row["checkpointing"] == "True" else "none",
        reshard_after_forward=row["sharding"] == "FULL_SHARD",
    )
    layout = Layout(Mesh(dp_shard=gpus), options, micro, accumulation, True, RANKS_PER_NODE)
    useful = Case(precision="bf16", gpu=True)
    answer = _traced(row["model"], sequence, [layout.case, useful], kept)
    model, plain = answer.models
    assert isinstance(model, Model), model
    assert isinstance(plain, Model), plain
    step_s = micro * accumulation * gpus * sequence / float(row["tokens_per_s"])
    todo, tokens = work(model, plain, layout, answer), micro * accumulation * sequence
    return Published(row["model"], row["gpu"], gpus, step_s, todo, _counted(row["model"], sequence) * tokens)


def _counted(name: str, sequence: int) -> float:
    """Return 6 N + 12 L d s for a token: scripts/train/benchmarking/README.md, "MFU"."""
    dim, _, layers = SHAPES[name]
    return 6 * (12 * layers * dim**2 + VOCABULARY * dim) + 12 * layers * dim * sequence


def _traced(name: str, sequence: int, cases: list[Case], kept: Path) -> Answer:
    path = kept / f"{name}-{sequence}-{cases[0].activation_checkpointing}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Answer)
    from hpcpar.worker.trace.trace import trace

    warnings.filterwarnings("ignore")
    dim, heads, layers = SHAPES[name]
    shape = {"dim": dim, "heads": heads, "kv_heads": heads, "layers": layers, "hidden": round(8 * dim / 3)}
    workload = registry.get_workload("llama-tiny")
    options = msgspec.convert({**shape, "sequence": sequence, "vocabulary": VOCABULARY}, workload.Options)
    answer = trace(workload.load(options, 0), list(dict.fromkeys(cases)))
    models = answer.models if len(answer.models) == len(cases) else answer.models * len(cases)
    answer = msgspec.structs.replace(answer, models=models)
    kept.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(answer))
    return answer


class Scored(NamedTuple):
    """How far off a row's prediction and constant efficiency are, as shares of what was published."""

    gpu: str
    model: str
    off: float
    naive_off: float


def scored(rows: list[Published]) -> Iterator[Scored]:
    """Predict each model's rows with rates that are fitted to the other models' rows on the same GPU."""
    for gpu in dict.fromkeys(row.gpu for row in rows):
        same = [row for row in rows if row.gpu == gpu]
        for model in dict.fromkeys(row.model for row in same):
            others = [row for row in same if row.model != model]
            clock, naive = fitted(others, gpu), statistics.geometric_mean(r.step_s / r.counted for r in others)
            for row in (row for row in same if row.model == model):
                time = step_time(row.work, clock, row.gpus)
                yield Scored(gpu, model, time.expected / row.step_s - 1, naive * row.counted / row.step_s - 1)


def fitted(rows: list[Published], gpu: str) -> Clock:
    """Return the clock of a GPU after these rows."""
    device = find_device(GPUS[gpu])
    assert device is not None
    rates = gpu_rates(device.peak_flops, "bf16", device.source)
    assert rates is not None
    return calibrated(first_clock(rates), [Seen(work=r.work, ranks=r.gpus, time_s=r.step_s) for r in rows])


def table(rows: list[Published]) -> str:
    """Print the errors by GPU and model."""
    found = list(scored(rows))
    heads = [
        "GPU",
        "model",
        "rows",
        "predicted: mean error (%)",
        "worst (%)",
        "constant MFU: mean (%)",
        "worst (%)",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for gpu, model in dict.fromkeys((one.gpu, one.model) for one in found):
        lines.append(_line(gpu, model, [one for one in found if (one.gpu, one.model) == (gpu, model)]))
    for gpu in dict.fromkeys(one.gpu for one in found):
        lines.append(_line(gpu, "all", [one for one in found if one.gpu == gpu]))
    lines.append(_line("all", "all", found))
    return "\n".join(lines) + "\n"


def _line(gpu: str, model: str, several: list[Scored]) -> str:
    ours, naive = [abs(one.off) for one in several], [abs(one.naive_off) for one in several]
    numbers = [value * 100 for of in (ours, naive) for value in (statistics.fmean(of), max(of))]
    return f"| {gpu} | {model} | {len(several)} | {' | '.join(f'{number:.1f}' for number in numbers)} |"
