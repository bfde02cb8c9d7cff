"""Run the parity matrix and write docs/parity.md from it.

    make parity              every cell that is not kept from before (the same code, the same torch)
    make parity PLANT=1      the same cells with a wrong gradient on one rank: all of them must turn red
    make parity ONLY=tp      only rows whose name holds this word; nothing is written

Verdicts are kept in build/parity.jsonl, so an interrupted run goes on where it was. Exit code 1: a cell failed, or with
PLANT=1 a cell did not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "parallel"))

import matrix  # noqa: E402
import parity  # noqa: E402
from matrix import COLUMNS, Cell  # noqa: E402
from parity import Prover, Verdict  # noqa: E402
from pool import Pool  # noqa: E402

PAGE = ROOT / "docs" / "parity.md"
REFUSALS = ROOT / "tests" / "parallel" / "refusals.txt"
KEPT = ROOT / "build" / "parity.jsonl"
PLANTED_STEPS = 2
"""Show a wrong gradient nearly everywhere; where they do not (gradients are clipped, or small), it has all steps."""
PATIENCE_S = 900.0
"""Of a cell: a verdict that is kept must not be about a machine that others use."""
Verdicts = dict[str, Verdict]


def main() -> int:
    """Run what is missing, print the table, write the page."""
    parser = argparse.ArgumentParser(description="Run the parity matrix.")
    parser.add_argument("--plant", action="store_true", help="plant a wrong gradient on one rank")
    parser.add_argument("--only", default="", help="rows whose name holds this word")
    parser.add_argument("--refusals", action="store_true", help=f"write {REFUSALS.name} only: what is refused, and why")
    arguments = parser.parse_args()
    cells = [cell for cell in matrix.cells() if arguments.only in str(cell.row)]
    if arguments.refusals:
        REFUSALS.write_text("".join(f"{line}\n" for line in matrix.refusals()), encoding="utf-8")
        return 0
    left_out = {matrix.missing(cell.row) for cell in cells} - {""}
    if left_out:
        print(f"rows left out, as these are not installed: {', '.join(sorted(left_out))}", file=sys.stderr)
    cells = [cell for cell in cells if not matrix.missing(cell.row)]
    verdicts = run([cell for cell in cells if cell.job], arguments.plant)
    Console(width=200).print(table(cells, verdicts, arguments.plant), markup=False, highlight=False, soft_wrap=True)
    if arguments.plant:
        return tell_planted(cells, verdicts)
    if not arguments.only:
        PAGE.write_text(page(cells, verdicts), encoding="utf-8")
    failed = [cell for cell in cells if cell.job and text(cell, verdicts).startswith("FAIL")]
    for cell in failed:
        print(f"{cell.workload}: {cell.row}, {cell.column.name}: {text(cell, verdicts)}")
    return 1 if failed else 0


# ---------------------------------------------------------------- running


def run(cells: list[Cell], plant: bool) -> Verdicts:
    """Return the verdict of every cell, by its key; run what is not kept, the small worlds first."""
    digest, verdicts = parity.digest_of_code(), {}
    for line in KEPT.read_text(encoding="utf-8").splitlines() if KEPT.is_file() else []:
        its_digest, key, numbers = json.loads(line)
        if its_digest == digest:
            verdicts[key] = Verdict(*numbers)
    keyed = {parity.key_of(cell, plant): cell for cell in sorted(cells, key=lambda cell: max(2, cell.ranks))}
    missing = {key: cell for key, cell in keyed.items() if key not in verdicts}
    KEPT.parent.mkdir(exist_ok=True)
    with KEPT.open("a", encoding="utf-8") as file:
        for key, verdict in proven(missing, plant):
            verdicts[key] = verdict
            file.write(json.dumps([digest, key, verdict]) + "\n")
            file.flush()
    return {key: verdicts[key] for key in keyed}


def proven(cells: dict[str, Cell], plant: bool) -> Iterator[tuple[str, Verdict]]:
    """Yield the verdicts of cells as they come, with a bar that says how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with OnePool() as pools, Progress(*columns, console=Console(stderr=True)) as progress:
        prover, bar = Prover(pools), progress.add_task("", total=len(cells))
        for key, cell in cells.items():
            progress.update(bar, description=f"{cell.workload}: {cell.row}, {cell.column.name}"[:64].ljust(64))
            verdict = prover.verdict(cell, plant=plant, steps=PLANTED_STEPS if plant else matrix.STEPS)
            if plant and verdict.agrees:
                verdict = prover.verdict(cell, plant=True)
            yield key, verdict
            progress.advance(bar)


class OnePool:
    """One pool at a time: eight ranks are enough for this machine. One that lost its ranks or is worn is made anew."""

    def __init__(self) -> None:
        self._pool: Pool | None = None

    def __enter__(self) -> OnePool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()

    def __call__(self, size: int) -> Pool:
        """Return a pool of `size` ranks."""
        if self._pool is None or self._pool.size != size or not self._pool.alive or self._pool.worn:
            self.__exit__()
            self._pool = Pool(size, Path(tempfile.mkdtemp(prefix="hpcpar-parity-")), PATIENCE_S)
        return self._pool


# ---------------------------------------------------------------- the page


def text(cell: Cell, verdicts: Verdicts, plant: bool = False) -> str:
    """Return what stands in a cell of the table."""
    if cell.job is None:
        return "-"
    verdict = verdicts[parity.key_of(cell, plant)]
    if plant:
        return "not seen" if verdict.agrees else f"FAIL {parity.worst(verdict)}"
    return parity.text_of(cell, verdict)


def table(cells: list[Cell], verdicts: Verdicts, plant: bool) -> str:
    """Return a table a workload."""
    return "\n\n".join(
        "\n".join(_rows(workload, [cell for cell in cells if cell.workload == workload], verdicts, plant))
        for workload in dict.fromkeys(cell.workload for cell in cells)
    )


def _rows(workload: str, cells: list[Cell], verdicts: Verdicts, plant: bool) -> Iterator[str]:
    yield f"**{workload}**\n"
    yield f"| strategy | {' | '.join(column.name for column in COLUMNS)} | farthest: first loss, loss, weights |"
    yield "|" + "---|" * (len(COLUMNS) + 2)
    for begin in range(0, len(cells), len(COLUMNS)):
        row = cells[begin : begin + len(COLUMNS)]
        compared = [verdicts[parity.key_of(cell, plant)] for cell in row if cell.job and not cell.differs]
        farthest = [
            f"{max(column):.0e}" for column in zip(*((v.first, v.losses, v.weights) for v in compared), strict=True)
        ]
        yield f"| {row[0].row} | {' | '.join(text(c, verdicts, plant) for c in row)} | {', '.join(farthest) or '-'} |"


def tell_planted(cells: list[Cell], verdicts: Verdicts) -> int:
    """Say how many cells saw the planted gradient."""
    trained = [cell for cell in cells if cell.job]
    unseen = [cell for cell in trained if text(cell, verdicts, plant=True) == "not seen"]
    print(f"{len(trained) - len(unseen)} of {len(trained)} cells saw the wrong gradient of one rank")
    return 1 if unseen else 0


def page(cells: list[Cell], verdicts: Verdicts) -> str:
    """Return docs/parity.md."""
    counts = {"equal": 0, "pass": 0, "by rule": 0, "FAIL": 0, "-": 0}
    for cell in cells:
        words = text(cell, verdicts)
        counts[next(word for word in counts if words.startswith(word))] += 1
    shapes = "\n".join(f"- `{name}`: {_shape(name)}" for name in matrix.neural_workloads())
    rules = "\n".join(f"- `{row}`, {where}: {why}." for row in matrix.ROWS for where, why in row.differs.items())
    special = "\n".join(f"- `{name}`: {what}." for name, what in matrix.SPECIAL.items())
    return TEXT.format(
        torch=torch.__version__.partition("+")[0],
        steps=matrix.STEPS,
        first=matrix.FIRST_LOSS,
        losses=matrix.LOSSES,
        weights=matrix.WEIGHTS,
        planted_steps=PLANTED_STEPS,
        total=len(cells),
        equal=counts["equal"],
        passed=counts["pass"],
        by_rule=counts["by rule"],
        failed=counts["FAIL"],
        refused=counts["-"],
        shapes=shapes,
        units=matrix.UNITS,
        rules=rules,
        special=special,
        table=table(cells, verdicts, plant=False),
        refusals=_refusals(cells),
    )


def _shape(name: str) -> str:
    shape = matrix.SHAPES[name]
    words = ", ".join(f"{option} {value}" for option, value in {**shape.options, **shape.deep(matrix.UNITS)}.items())
    deep = f" ({shape.deep_sgd_lr:g} from {matrix.DEEP} units on)" if shape.deep_sgd_lr else ""
    return f"{words}; batch of {shape.global_batch}, lr {shape.sgd_lr:g} with SGD{deep}"


def _refusals(cells: list[Cell]) -> str:
    """Return the reasons, with the cells that they hold for."""
    found: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        if cell.job is None:
            found.setdefault(cell.refusal, {}).setdefault(f"{cell.workload}: {cell.row}", []).append(cell.column.name)
    lines = []
    for reason, places in found.items():
        by_columns: dict[str, list[str]] = {}
        for place, names in places.items():
            by_columns.setdefault(", ".join(names), []).append(place)
        where = "; ".join(f"{', '.join(rows)} ({columns})" for columns, rows in by_columns.items())
        lines.append(f"| {reason} | {where} |")
    return "\n".join(lines)


TEXT = """# Parity: every strategy beside one process

Made by `make parity` with torch {torch} on CPUs (gloo), fp32. Nothing on this page is typed.

Every strategy trains every neural workload for {steps} steps, with SGD (momentum 0.9) and with AdamW, on 1, 2, 4 and
8 ranks, and is compared with `single` at the same global batch, which one process computes in one piece. A cell
passes when the first loss agrees within {first:g} (relative), each of the {steps} losses within {losses:g}, and every
weight on every rank that holds it within {weights:g} after the last step.

{total} cells: {equal} equal, {passed} pass, {by_rule} differ by rule, {failed} FAIL, {refused} refused.

- `equal`: passes, and all losses and weights are those of one process with the same micro-batches, bit by bit.
- `pass`: passes; sums were taken in another order.
- `by rule`: the strategy computes something else here, as its documentation says, and must not agree; how far.
- `FAIL`: with what is out of bounds, and by how much.
- `-`: refused by the plan, which says why: the list is at the end.

Columns: the number of ranks and the optimizer; and, with SGD on four ranks, or on two where the mesh has every axis
there that it has on four (strategies of one process: on one rank),

{special}

Sizes, small enough for eight ranks on two processors ({units} units; for pipelines, one for every stage):

{shapes}

Where a learning rate is so high that training is chaotic, rounding grows beyond these bounds within twenty steps, and
two runs of *one* process that cut their batch differently are as far from each other as two strategies. The learning
rates are below that: the row `single` shows, in its column `accumulate`, one process beside itself.

What differs by rule on more than one rank ([delayed.md](delayed.md)), and is checked beside NumPy instead
(`tests/parallel`):

{rules}

`make parity PLANT=1` runs the same cells with a wrong gradient on one rank, {planted_steps} steps each ({steps} where
that is too few for it to be seen), and fails unless every cell turns red; the tests do so for a part of the matrix.

{table}

## Refused

The list is pinned (`tests/parallel/refusals.txt`): a test fails when it changes.

| reason | where |
|---|---|
{refusals}
"""

if __name__ == "__main__":
    raise SystemExit(main())
