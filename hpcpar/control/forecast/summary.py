"""What all rows of a forecast say together: who is fastest where, what batches are worth, what it costs. Pure."""

from __future__ import annotations

from msgspec import Struct

from hpcpar.control.forecast.allocation import Balance
from hpcpar.control.forecast.batches import Worth, eaten, worth
from hpcpar.control.forecast.fastest import Fastest, fastest
from hpcpar.control.forecast.forecast import Forecast
from hpcpar.control.forecast.price import NOTHING, Price


class Summary(Struct, frozen=True, kw_only=True):
    """What stands below the table."""

    fastest: tuple[Fastest, ...]
    critical_batch: float | None = None
    batches: tuple[Worth, ...] = ()
    eaten: Worth | None = None
    """The first batch that gains nothing over the one before it."""
    runs: int = 0
    expected: Price | None = None
    """Of all runs and repeats; None where the time of one is not known, or where the rows are a choice."""
    worst: Price | None = None
    """Every job takes all of its time limit; None where the rows are a choice."""
    unit: str
    balance: Balance | None = None
    left: float | None = None
    """The balance less the worst case, in the site's unit."""


def sum_up(
    found: Forecast, *, critical_batch: float | None = None, balance: Balance | None = None, open_choice: bool = False
) -> Summary:
    """Sum up a forecast; `open_choice`: its rows are a choice and not a study."""
    batches = worth(found.rows, critical_batch) if critical_batch else ()
    expected, worst = (None, None) if open_choice or not found.rows else total(found)
    units = worst.units if worst is not None else None
    return Summary(
        fastest=fastest(found.rows),
        critical_batch=critical_batch,
        batches=batches,
        eaten=eaten(batches),
        runs=len(found.rows) * found.repeats,
        expected=expected,
        worst=worst,
        unit=found.charge_unit,
        balance=balance,
        left=balance.units - units if balance is not None and units is not None else None,
    )


def total(found: Forecast) -> tuple[Price | None, Price]:
    """Add up all runs and repeats: expected (None where the time of one is not known), and at worst."""
    expected: Price | None = NOTHING
    worst = NOTHING
    for row in found.rows:
        worst = worst.plus(row.worst.times(found.repeats))
        expected = expected.plus(row.price.times(found.repeats)) if expected and row.price else None
    return expected, worst
