"""Measure how many samples a workload needs at four global batches, and put the fitted law into docs/laws.md.

    python docs/make_statistical_efficiency.py [RUNS_FOLDER]

Trains on this machine, 20 runs of seconds: five seeds at each batch, everything else alike. Samples are counted, not
timed: a busy machine makes it slower and changes nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hpcpar.analysis.collect import collect
from hpcpar.analysis.text import sheet
from hpcpar.analysis.text.law_tables import law_facts, law_sheet

PAGE = Path(__file__).resolve().parent / "laws.md"
BEGIN, END = "<!-- statistical efficiency: begin -->", "<!-- statistical efficiency: end -->"
BATCHES, SEEDS = (16, 32, 64, 128), (1, 2, 3, 4, 5)
SAMPLES = 12_800
"""Every run sees so many: enough to reach the target, with room."""
TARGET = 0.5
OPTIONS = ("layers=3", "optimizer=sgd", "lr=0.3", "momentum=0")
STUDY = "statistical-efficiency"


def commands(runs: Path) -> list[list[str]]:
    """Return what is typed: a submission for every batch and seed."""
    settings = [word for option in OPTIONS for word in ("--set", option)]
    fixed = ["--cluster", "local", "--workload", "mlp", "--strategy", "single", "--nodes", "1", *settings]
    where = ["--name", STUDY, "--runs", str(runs)]
    return [
        ["submit", *fixed, "--global-batch", str(b), "--steps", str(SAMPLES // b), "--seed", str(seed), *where]
        for seed in SEEDS
        for b in BATCHES
    ]


def study(runs: Path) -> None:
    """Submit everything, and stay until it has ended. What is done already is not done again."""
    environment = {**os.environ, "HPCPAR_STATE": str(runs / "state")}
    *first, last = commands(runs)
    for words in (*first, [*last, "--wait"]):
        subprocess.run([sys.executable, "-m", "hpcpar", *words], check=True, env=environment, stdout=subprocess.DEVNULL)


def text(runs: Path) -> str:
    """Return the section: samples by batch, and the law with its interval."""
    results = collect([runs / STUDY], target_loss=TARGET)
    rows = [row for row in results.rows if row.usable]
    lines = ["| global batch | runs | reached the target | samples to it, seed by seed |", "|---|---|---|---|"]
    for batch in BATCHES:
        mine = sorted((row for row in rows if row.global_batch == batch), key=lambda row: row.seed)
        reached = [f"{row.samples_to_target:.0f}" for row in mine if row.samples_to_target is not None]
        lines.append(f"| {batch} | {len(mine)} | {len(reached)} | {', '.join(reached)} |")
    laws = [law for law in results.fitted if law.law == "samples to target"]
    facts = "\n".join(f"- {fact}" for fact in law_facts(laws))
    head = f"`mlp` with `{' '.join(OPTIONS)}`, target loss {TARGET:g} (mean of ten steps), {SAMPLES} samples a run."
    return "\n\n".join([head, "\n".join(lines), sheet.markdown(law_sheet(laws)), facts])


def main(arguments: list[str]) -> int:
    """Run what is not there yet, and write the page."""
    runs = Path(arguments[0] if arguments else tempfile.mkdtemp(prefix="hpcpar-batches-")).absolute()
    runs.mkdir(parents=True, exist_ok=True)
    study(runs)
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text(runs)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
