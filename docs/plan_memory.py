"""Predicted beside measured memory: what a plan says of a rank, and what processes on this machine need.

Every cell runs twice: with a model of 30 million parameters or more and with one of next to none. The difference of
their largest resident sets is what the larger one needs.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from plan_runs import finished, options_of, submit, traced

from hpcpar.control.forecast.layout import Layout, layout_of
from hpcpar.control.forecast.memory import HEAP, PROCESS, need
from hpcpar.spec import Identity

SETTINGS = {"given back": {"MALLOC_MMAP_THRESHOLD_": "65536"}, "default": {}}
"""What the C library does with blocks that are free."""
EVALUATED = "data.evaluation=16"
"""Samples of the evaluation: more need more time and no more memory."""
LLAMA = f"heads=8 kv_heads=8 {EVALUATED}"
SHAPES = {
    "llama-tiny": (
        f"{LLAMA} layers=6 dim=768 hidden=2048 vocabulary=2048 sequence=128",
        f"{LLAMA} layers=6 dim=64 hidden=128 vocabulary=256 sequence=32",
    ),
    "llama-moe": (
        f"{LLAMA} layers=6 dim=256 hidden=1024 vocabulary=2048 sequence=128",
        f"{LLAMA} layers=6 dim=64 hidden=32 vocabulary=256 sequence=32",
    ),
    "llama-lora": (
        f"{LLAMA} layers=10 dim=1024 hidden=2816 vocabulary=2048 sequence=128",
        f"{LLAMA} layers=10 dim=64 hidden=128 vocabulary=256 sequence=32",
    ),
    "mlp": ("hidden=2700", "hidden=32"),
    "vgg11": ("classifier=5120", "classifier=64 width=4"),
    "conv-autoencoder": ("data.size=64 width=64 code=512", "data.size=8 width=4 code=8"),
    "seq2seq": ("dim=512 hidden=2048 heads=8 encoder_layers=6 decoder_layers=6", "heads=4"),
}
"""Options of the large and of the small model."""
CELLS = (
    ("llama-tiny", "single", 1, ""),
    ("llama-tiny", "single", 1, "--option activation_checkpointing=full"),
    ("llama-tiny", "single", 1, "--option precision=bf16"),
    ("llama-tiny", "layerwise", 1, ""),
    ("llama-tiny", "ddp", 2, ""),
    ("llama-tiny", "fsdp", 2, ""),
    ("llama-tiny", "fsdp", 2, "--micro-batch 2"),
    ("llama-tiny", "tp", 2, ""),
    ("llama-tiny", "cp", 2, ""),
    ("llama-tiny", "pp", 2, ""),
    ("llama-tiny", "localsgd", 2, "--option period=2"),
    ("llama-tiny", "localsgd", 2, "--option period=2 --option outer=nesterov"),
    ("llama-tiny", "async", 2, ""),
    ("llama-tiny", "deepspeed-zero", 2, "--option stage=1"),
    ("llama-tiny", "deepspeed-zero", 2, "--option stage=2"),
    ("llama-tiny", "deepspeed-zero", 2, "--option stage=3"),
    ("llama-tiny", "deepspeed-tp", 2, ""),
    ("llama-tiny", "deepspeed-pp", 2, ""),
    ("llama-moe", "single", 1, ""),
    ("llama-moe", "ddp", 2, ""),
    ("llama-moe", "ep", 2, ""),
    ("llama-lora", "single", 1, ""),
    ("llama-lora", "ddp", 2, ""),
    ("llama-lora", "fsdp", 2, ""),
    ("mlp", "single", 1, ""),
    ("mlp", "ddp", 2, ""),
    ("mlp", "fsdp", 2, ""),
    ("vgg11", "single", 1, ""),
    ("vgg11", "ddp", 2, ""),
    ("conv-autoencoder", "single", 1, ""),
    ("conv-autoencoder", "fsdp", 2, ""),
    ("seq2seq", "single", 1, ""),
    ("seq2seq", "fsdp", 2, ""),
)
USUAL = {"activation_checkpointing": "none", "precision": "fp32", "stage": 0, "period": 8, "outer": "average"}
BATCH = 8
SHORT = ("--steps", "3", "--warmup-steps", "0")
HEAD = """Made by `make plan ONLY=memory`: every workload with 30 million parameters or more (`docs/plan_memory.py` has
their options), 500 MB of model state and more, a global batch of 8, on CPUs (gloo). Measured is the largest resident
set of any rank, less that of the same run with a model of next to no size: with blocks given back
(`MALLOC_MMAP_THRESHOLD_=65536`), and as the C library does it by itself.
"""


class Cell(NamedTuple):
    """One cell under one setting, in bytes."""

    predicted: float
    measured: float
    resident: float
    """The whole process."""

    @property
    def off(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted / self.measured - 1


def run(root: Path, only: str) -> None:
    """Run all cells, or those that have a word in their line."""
    for setting, variables in SETTINGS.items():
        folder = root / setting.replace(" ", "-")
        for workload, strategy, nodes, more in CELLS:
            beside = setting == "default" and workload != "llama-tiny"  # one workload shows what the C library does
            if beside or only not in f"{workload} {strategy} {nodes} {more}":
                continue
            for size, shape in zip(("big", "small"), SHAPES[workload], strict=True):
                words = f"--workload {workload} --strategy {strategy} --nodes {nodes} {more} --global-batch {BATCH}"
                sets = [word for pair in shape.split() for word in ("--set", pair)]
                submit(folder, f"{size}-{workload}", [*words.split(), *SHORT, *sets], variables)


def compare(root: Path) -> dict[str, dict[str, Cell]]:
    """Put predicted beside measured: setting -> cell -> bytes."""
    return {setting: dict(_compare(root / setting.replace(" ", "-"))) for setting in SETTINGS}


def _compare(folder: Path) -> Iterator[tuple[str, Cell]]:
    peaks: dict[tuple[str, str], float] = {}
    planned: dict[str, Identity] = {}
    for study, run_folder, spec in finished(folder):
        label, size = _label(spec.identity), study.partition("-")[0]
        record = run_folder.record()
        assert record is not None
        peaks[size, label] = max(rank.peak_memory_bytes for rank in record.ranks)
        if size == "big":
            planned[label] = spec.identity
    for label, identity in planned.items():
        big, small = peaks["big", label], peaks["small", label]
        yield label, Cell(_predict(identity), big - small, big)


def _label(identity: Identity) -> str:
    sizes = f"{identity.micro_batch} x {identity.grad_accum}"
    more = options_of(identity, USUAL)
    return f"{identity.workload} | {identity.strategy} | {identity.mesh.label()} | {sizes} | {more}"


def _predict(identity: Identity) -> float:
    layout = layout_of(identity, gpu=False)
    assert isinstance(layout, Layout), layout
    shapes, (model,) = traced(identity, [layout.case])
    return need(model, layout, shapes.answer).total


def table(found: dict[str, dict[str, Cell]]) -> str:
    """Print both settings side by side, and how far off the predictions are."""
    back, default = found["given back"], found["default"]
    heads = ["workload", "strategy", "mesh", "micro x accum", "options", "predicted (MiB)", "given back (MiB)",
             "off (%)", "default (MiB)", "process (MiB)", "fits for certain in (MiB)"]  # fmt: skip
    lines = [*HEAD.splitlines(), "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label, one in back.items():
        other = default.get(label)
        predicted, measured, enough = (_mib(value) for value in (one.predicted, one.measured, certain(one.predicted)))
        free, process = (_mib(other.measured), _mib(other.resident)) if other is not None else ("", "")
        lines.append(f"| {label} | {predicted} | {measured} | {one.off * 100:+.1f} | {free} | {process} | {enough} |")
    off = [abs(one.off) for one in back.values()]
    lines += ["", f"Blocks given back: off by {statistics.fmean(off):.1%} on average, {max(off):.1%} at worst, over"
              f" {len(off)} of {len(CELLS)} cells. {_by_itself(default)}", ""]  # fmt: skip
    return "\n".join(lines)


def _by_itself(default: dict[str, Cell]) -> str:
    if not default:
        return "As the C library does it by itself: not run."
    short = [label for label, one in default.items() if one.resident > certain(one.predicted)]
    said = "every process stayed below" if not short else f"{len(short)} processes went beyond"
    return f"As the C library does it by itself, {said} what fits for certain, over {len(default)} cells."


def _mib(value: float) -> str:
    return f"{value / 2**20:.0f}"


def certain(predicted: float) -> float:
    """Return the memory in which a rank on CPUs fits for certain (`memory.verdict`)."""
    return predicted * (1 + HEAP) + PROCESS["cpu"]
