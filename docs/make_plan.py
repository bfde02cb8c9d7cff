"""Run small studies on this machine and put predicted beside measured memory; rewrite the table in docs/plan.md.

    make plan            # some ten minutes on two cores
    make plan RUNS=...   # in a folder that is kept: what is done there is not run again

Every cell runs twice under each of two settings of the C library: with a model of some 45 million parameters and with
one of next to none. The difference of their largest resident sets is what the larger one needs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from hpcpar.control.forecast.ask import Shapes, ask
from hpcpar.control.forecast.layout import Layout, layout_of
from hpcpar.control.forecast.memory import need
from hpcpar.runs import RunFolder, find_studies
from hpcpar.shapes import Model
from hpcpar.spec import Identity

PAGE = Path(__file__).resolve().parent / "plan.md"
BEGIN, END = "<!-- memory: begin -->\n", "<!-- memory: end -->\n"
SHAPES = {
    "big": "dim=768 hidden=2048 vocabulary=2048 sequence=128",
    "small": "dim=64 hidden=128 vocabulary=256 sequence=32",
}
SAME = "heads=8 kv_heads=8 layers=6"
CELLS = (
    ("single", 1, ""),
    ("single", 1, "--option activation_checkpointing=full"),
    ("single", 1, "--option precision=bf16"),
    ("ddp", 2, ""),
    ("fsdp", 2, ""),
    ("fsdp", 2, "--micro-batch 4"),
    ("tp", 2, ""),
    ("pp", 2, ""),
)
SETTINGS = {"given back": {"MALLOC_MMAP_THRESHOLD_": "65536"}, "default": {}}
"""What the C library does with blocks that are free."""


HEAD = """Made by `make plan`: `llama-tiny` with dim 768, hidden 2048, 6 layers, vocabulary 2048, sequence 128, AdamW,
a global batch of 16, on CPUs (gloo). Measured is the largest resident set of any rank, less that of the same run with a
model of next to no size: with blocks given back, and as the C library does it by itself.
"""


class Cell(NamedTuple):
    """One cell under one setting."""

    label: str
    predicted: float
    measured: float

    @property
    def off(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted / self.measured - 1


def main() -> int:
    """Run, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="Where the runs lie (default: a new folder).")
    root = (parser.parse_args().runs or Path(tempfile.mkdtemp(prefix="hpcpar-plan-"))).absolute()
    found = {}
    for setting, variables in SETTINGS.items():
        folder = root / setting.replace(" ", "-")
        for strategy, nodes, more in CELLS:
            for name, shape in SHAPES.items():
                _submit(folder, name, strategy, nodes, f"{shape} {SAME}", more, variables)
        found[setting] = _compare(folder)
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(head + BEGIN + _table(found) + END + tail, encoding="utf-8")
    print(_table(found))
    return 0


def _submit(  # noqa: PLR0917 - the words of one command line
    folder: Path, name: str, strategy: str, nodes: int, shape: str, more: str, variables: dict[str, str]
) -> None:
    words = "submit --cluster local --workload llama-tiny --global-batch 16 --steps 3 --warmup-steps 0 --wait"
    sets = [word for pair in shape.split() for word in ("--set", pair)]
    command = [
        sys.executable,
        "-m",
        "hpcpar",
        *words.split(),
        "--no-predict",
        "--strategy",
        strategy,
        "--nodes",
        str(nodes),
    ]
    command += ["--name", name, "--runs", str(folder), *sets, *more.split()]
    subprocess.run(command, check=True, env={**os.environ, **variables}, stderr=subprocess.DEVNULL)


def _compare(folder: Path) -> dict[str, Cell]:
    peaks: dict[tuple[str, str], float] = {}
    planned: dict[str, Identity] = {}
    for study in find_studies(folder):
        for run in study.runs():
            spec = run.spec()
            assert spec is not None
            label = _label(spec.identity)
            peaks[study.path.name, label] = _peak(run)
            if study.path.name == "big":
                planned[label] = spec.identity
    return {
        label: Cell(label, _predict(identity), peaks["big", label] - peaks["small", label])
        for label, identity in planned.items()
    }


def _peak(run: RunFolder) -> float:
    record = run.record()
    assert record is not None, f"{run.path} has no result"
    return max(rank.peak_memory_bytes for rank in record.ranks)


def _label(identity: Identity) -> str:
    options = identity.strategy_options
    usual = {"activation_checkpointing": "none", "precision": "fp32"}
    more = " ".join(f"{name}={options[name]}" for name, value in usual.items() if options[name] != value)
    sizes = f"{identity.micro_batch} x {identity.grad_accum}"
    return f"{identity.strategy} | {identity.mesh.label()} | {sizes} | {more}"


def _predict(identity: Identity) -> float:
    layout = layout_of(identity, gpu=False)
    assert isinstance(layout, Layout)
    shapes = ask(identity.workload, identity.workload_options, [layout.case])
    assert isinstance(shapes, Shapes), shapes
    model = shapes.models[layout.case]
    assert isinstance(model, Model), model
    return need(model, layout, shapes.answer).total


def _table(found: dict[str, dict[str, Cell]]) -> str:
    back, default = found["given back"], found["default"]
    heads = ["strategy", "mesh", "micro x accum", "options", "predicted (MiB)", "given back (MiB)", "off (%)",
             "default (MiB)", "more than predicted (%)"]  # fmt: skip
    lines = [*HEAD.splitlines(), "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label, one in back.items():
        other = default.get(label)
        more = f"{other.measured / 2**20:.0f} | {(other.measured / one.predicted - 1) * 100:+.1f}" if other else "|"
        numbers = f"{one.predicted / 2**20:.0f} | {one.measured / 2**20:.0f} | {one.off * 100:+.1f}"
        lines.append(f"| {label} | {numbers} | {more} |")
    off = [abs(one.off) for one in back.values()]
    lines += ["", f"Blocks given back: off by {statistics.fmean(off):.1%} on average, {max(off):.1%} at worst.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
