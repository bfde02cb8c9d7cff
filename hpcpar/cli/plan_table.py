"""Print what a forecast says as a table that a person can act on."""

from __future__ import annotations

import click

from hpcpar.cli import printable
from hpcpar.cli.output import in_unicode
from hpcpar.control.forecast.forecast import Forecast, Row
from hpcpar.control.forecast.price import Price
from hpcpar.control.forecast.summary import Summary
from hpcpar.units import human_duration, human_memory

SHOWN = 3
"""Meshes of hybrid that are printed for each size, where nobody asked for all."""
_HEADS = ("fits", "strategy", "nodes", "mesh", "micro x accum", "memory a rank", "step", "(95 %)", "naive", "to finish",
          "node-hours", "price", "why")  # fmt: skip


def print_forecast(found: Forecast, summed: Summary, *, everything: bool) -> None:
    """Print the table, what is refused, what would make the others fit, and what the numbers rest on."""
    rows = list(found.rows) if everything else _best(found.rows)
    lines = [_cells(row, found) for row in rows]
    widths = [max(len(line[i]) for line in [_HEADS, *lines]) for i in range(len(_HEADS))]
    click.echo(f"{found.workload} on {found.cluster} ({found.node_type} nodes), {found.steps} steps a run")
    rule = "─" if in_unicode() else "-"
    for line in [_HEADS, tuple(rule * width for width in widths), *lines]:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(printable(text.rstrip()))
    if len(rows) < len(found.rows):
        click.echo(f"{len(found.rows) - len(rows)} more meshes: --all")
    _print_changes(rows)
    _print_refused(found)
    _print_fastest(summed)
    _print_batches(summed)
    _print_total(summed)
    _print_allocation(found, summed)
    _print_ground(found)


def _best(rows: tuple[Row, ...]) -> list[Row]:
    taken: dict[tuple[str, int], int] = {}
    best = []
    for row in rows:
        taken[row.strategy, row.nodes] = taken.get((row.strategy, row.nodes), 0) + 1
        if taken[row.strategy, row.nodes] <= SHOWN:
            best.append(row)
    return best


def _cells(row: Row, found: Forecast) -> tuple[str, ...]:
    need = human_memory(row.need.total) if row.need else "unknown"
    of = f" of {human_memory(row.capacity_bytes)}" if row.capacity_bytes else ""
    time = row.time
    return (
        row.fits,
        row.strategy,
        str(row.nodes),
        row.mesh,
        f"{row.micro_batch} x {row.grad_accum}",
        need + of,
        seconds(time.expected) if time else "unknown",
        f"{seconds(time.low)} to {seconds(time.high)}" if time else "",
        seconds(time.naive) if time else "",
        human_duration(row.run_s) if row.run_s is not None else "unknown",
        f"{row.price.node_hours:.2f}" if row.price else f"<= {row.worst.node_hours:.2f}",
        money(row.price or row.worst, found.charge_unit, most=row.price is None),
        row.reason,
    )


def seconds(value: float) -> str:
    """Print a step time with three digits."""
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def money(price: Price, unit: str, *, most: bool = False) -> str:
    """Print a price in the site's unit."""
    if price.units is None:
        return f"{unit}: unknown"
    return f"{'<= ' * most}{price.units:.2f} {unit}"


def _print_changes(rows: list[Row]) -> None:
    lines = []
    for row in rows:
        if row.fits not in {"no", "tight"}:
            continue
        label = f"  {row.strategy} on {row.nodes} ({row.mesh}): "
        if row.change is None:
            lines.append(f"{label}no micro-batch, checkpointing or precision: take more shards, stages or tp")
            continue
        step = f", {seconds(row.change.step_s)} a step" if row.change.step_s else ""
        rounds = " (rounds otherwise: bf16)" if row.change.changes_numbers else ""
        lines.append(f"{label}{row.change.flags} needs {human_memory(row.change.need_bytes)}{step}{rounds}")
    if lines:
        click.echo("What would make them fit, the fastest change of each:")
        click.echo("\n".join(lines))


def _print_refused(found: Forecast) -> None:
    if not found.refused:
        return
    reasons: dict[tuple[str, str, str], list[int]] = {}
    for one in found.refused:
        name = one.strategy if one.strategy != "hybrid" else "hybrid"
        reasons.setdefault((name, one.what, one.fix), []).append(one.nodes)
    click.echo("Cannot be:")
    for (name, what, fix), nodes in list(reasons.items())[:20]:
        sizes = " ".join(str(size) for size in dict.fromkeys(nodes))
        click.echo(printable(f"  {name} on {sizes}: {what}" + (f" ({fix})" if fix else "")))
    if len(reasons) > 20:
        click.echo(f"  and {len(reasons) - 20} more reasons: --json")


def _print_fastest(summed: Summary) -> None:
    """Say where one strategy overtakes another."""
    said = [
        f"{one.strategy} on {' '.join(str(nodes) for nodes in one.nodes)}{'' if one.sure else ' (bands overlap)'}"
        for one in summed.fastest
    ]
    if said:
        click.echo(f"Fastest: {', then '.join(said)}")


def _print_batches(summed: Summary) -> None:
    if summed.critical_batch is None:
        return
    click.echo(f"Batches, where {summed.critical_batch:g} samples need twice as many to learn (docs/plan.md):")
    for one in summed.batches:
        rate = f"{one.faster:.2f} times the samples a second, {one.samples:.2f} times as many needed"
        click.echo(f"  {one.global_batch} on {one.nodes} ({one.strategy}): {rate}: {one.sooner:.2f} times as soon")
    if summed.eaten is not None:
        click.echo(f"  From {summed.eaten.global_batch} on, a larger batch eats what it gains")


def _print_total(summed: Summary) -> None:
    if summed.worst is None:
        return
    worst, expected = summed.worst, summed.expected
    said = f"{expected.node_hours:.2f} node-hours expected ({money(expected, summed.unit)}), " if expected else ""
    click.echo(f"All {summed.runs} runs: {said}{worst.node_hours:.2f} at worst ({money(worst, summed.unit)})")


def _print_allocation(found: Forecast, summed: Summary) -> None:
    if found.allocation_left_s is not None:
        many = f"{sum(row.too_late for row in found.rows)} of {len(found.rows)} rows cannot end before"
        left = human_duration(max(0.0, found.allocation_left_s))
        click.echo(f"The allocation ends on {found.allocation_ends}, in {left}: {many}")
    if summed.balance is not None:
        after = f", {summed.left:.2f} after the worst case" if summed.left is not None else ""
        click.echo(f"Balance: {summed.balance.units:.2f} {summed.unit}{after} ({' '.join(summed.balance.command)})")


def _print_ground(found: Forecast) -> None:
    cells = found.calibrated_with
    ground = (
        f"fitted to {cells} finished cell{'s' * (cells > 1)} of this cluster"
        if cells
        else "not calibrated: no finished run of this cluster"
    )
    click.echo(f"Times are {ground}; naive: constant efficiency. Formulae and sources: docs/plan.md")
    for note in found.notes:
        click.echo(printable(f"note: {note}"))
