"""One sentence a series: what it reached, drawn from evidence only, inside the measured range only."""

from __future__ import annotations

from hpcpar.analysis.scaling.flags import DECLARED
from hpcpar.analysis.scaling.table import Cell, Table
from hpcpar.analysis.text.numbers import estimate, number, plural

_DOUBTS = ("oversubscribed", "shared its machine", "weak load", "its baseline was")


def headlines(table: Table, target: float) -> list[str]:
    """Say what each series reached; and where nothing may be concluded, at which sizes and why.

    Args:
        table: a scaling table.
        target: the efficiency that is wanted, e.g. 0.75 (a setting, not a law: centres differ).
    """
    if table.key.scaling not in DECLARED:
        return []
    kind = "speed-up" if table.key.scaling == "strong" else "scaled speed-up"
    return [line for label, cells in table.series().items() for line in _of_series(label, cells, kind, target)]


def _of_series(label: str, cells: list[Cell], kind: str, target: float) -> list[str]:
    timed = [cell for cell in cells if cell.speedup is not None and not cell.is_baseline]
    sound = [cell for cell in timed if cell.evidence]
    doubtful = [cell for cell in timed if not cell.evidence]
    lines = []
    if sound and sound[-1].efficiency is not None:
        last, efficiency = sound[-1], sound[-1].efficiency
        lines.append(
            f"{label} on {plural(last.nodes, 'node')}: {kind} {estimate(last.speedup)} against {last.baseline}, "
            f"efficiency {estimate(efficiency.times(100))} %; {_against(timed, target)}."
        )
    if doubtful:
        sizes = ", ".join(str(cell.nodes) for cell in doubtful)
        lines.append(f"Nothing is concluded for {label} on {sizes} nodes: {'; '.join(_doubts(doubtful))}.")
    return lines


def _against(cells: list[Cell], target: float) -> str:
    """Judge the target by whole intervals, size by size from below; the first size that cannot be judged ends it."""
    wanted = f"the target of {number(100 * target, 3).removesuffix('.0')} %"
    if all(cell.efficiency is None or cell.efficiency.low is None for cell in cells if cell.evidence):
        return f"one run a size has no interval, so nothing is said about {wanted}"
    reached = 0
    for cell in cells:
        low = cell.efficiency.low if cell.efficiency is not None and cell.evidence else None
        if low is None or low < target:
            break
        reached = cell.nodes
    if not reached:
        first = plural(cells[0].nodes, "node")
        verdict = "is not wholly at or above" if cells[0].evidence else "cannot be held against"
        return f"already on {first} the interval {verdict} {wanted}"
    return f"the whole interval is at or above {wanted} at every measured size up to {plural(reached, 'node')}"


def _doubts(cells: list[Cell]) -> list[str]:
    found = {flag for cell in cells for flag in cell.flags if flag.startswith(_DOUBTS)}
    return sorted(found) or ["the runs of its baseline were disturbed"]
