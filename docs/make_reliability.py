"""Inject every fault into runs on a real Slurm, three times each; write docs/reliability.md.

    make faults                               (some minutes a fault; root, for mounts and namespaces)
    make faults ONLY="slurmctld,slurmdbd"     only faults whose names hold one of the words: their rows are made anew

Exit code 1: a run was lost or counted twice, had other losses than an undisturbed run, or the wrong cause.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "slurm"))

import faults  # noqa: E402
from faults import Fault, Verdict  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
HEADS = ("fault", "how", "times", "went on by", "runs", "lost", "counted twice", "other losses", "wrong causes")
HEADS += ("steps done again", "date")
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def main() -> int:
    """Inject, judge, write after each fault what is known by then."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="")
    words = [word.strip() for word in parser.parse_args().only.split(",") if word.strip()]
    chosen = [one for one in faults.FAULTS if one.name == "none" or not words or any(w in one.name for w in words)]
    holds = True
    for verdict in _run(chosen):
        _say(verdict)
        holds = holds and verdict.holds
        _write(verdict)
    return int(not holds)


def _write(verdict: Verdict) -> None:
    """Put the row of a fault into the page; the others stay."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    inside, _, tail = rest.partition(END)
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in inside.splitlines() if line.startswith("| ")}
    rows[verdict.fault.name] = _row(verdict)
    known = [rows[fault.name] for fault in faults.FAULTS if fault.name in rows]
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}", *known]
    text = "\n".join([_facts(len(known)), "", *lines])
    PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def _say(verdict: Verdict) -> None:
    said = "holds" if verdict.holds else "DOES NOT HOLD"
    print(f"{time.strftime('%H:%M:%S')} {verdict.fault.name}: {said} ({verdict.seconds:.0f} s)", flush=True)
    for what in ("lost", "doubled", "different", "wrong_causes"):
        if getattr(verdict, what):
            print(f"  {what}: {', '.join(getattr(verdict, what))}", flush=True)


def _run(chosen: list[Fault]) -> Iterator[Verdict]:
    place = Path(tempfile.mkdtemp(prefix="hpcpar-faults-"))
    small = place / "small"
    faults.mount_small_disk(small)
    slurm = faults.new_cluster()
    try:
        slurm.script("up", "--nodes", "4", "--cpus", "2", "--slurmd-timeout", "30", timeout=120)
        yield from _each(slurm, place, small, chosen)
    finally:
        slurm.script("down", timeout=120)
        faults.unmount(small)
        shutil.rmtree(slurm.folder, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)


def _each(slurm: Any, place: Path, small: Path, chosen: list[Fault]) -> Iterator[Verdict]:
    undisturbed = None
    for number, fault in enumerate(chosen):
        verdict = faults.disturb(slurm, (small if fault.small_disk else place) / f"fault-{number}", fault, undisturbed)
        if fault.name == "none":
            first = next((place / f"fault-{number}" / "runs").glob("*/*/spec.json")).parent
            undisturbed = [step.loss for step in faults.kept(faults.RunFolder(first))]
        slurm.cancel_all()
        yield verdict


def _row(one: Verdict) -> str:
    ways = ", ".join(f"{n} x {way}" for way, n in sorted(one.went_on.items())) or "nothing was needed"
    sizes = [len(one.lost), len(one.doubled), len(one.different), len(one.wrong_causes)]
    day = time.strftime("%Y-%m-%d")
    cells = [one.fault.name, one.fault.how, one.injected, ways, faults.REPEATS, *sizes, one.replayed, day]
    return "| " + " | ".join(map(str, cells)) + " |"


def _facts(count: int) -> str:
    version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True).stdout.strip()
    where = f"{version}, four nodes on one machine, llama-tiny on two ranks a run, tens of steps"
    return f"Made by `make faults` on {where}; {count} of {len(faults.FAULTS)} rows are known."


if __name__ == "__main__":
    sys.exit(main())
